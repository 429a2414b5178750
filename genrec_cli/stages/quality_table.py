"""The content of ``quality.json`` as tables."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from genrec_cli import console

DIGITS_PER_ROW = 6
COUNTS = {
    "items": "items",
    "distinct_codes": "distinct codes",
    "largest_group": "largest group with the same codes",
}
FRACTIONS = {
    "colliding_fraction": "items with the codes of another item",
    "colliding_share_before": "the same before the collision policy",
    "moved_fraction": "items that were moved to a free code",
    "mutual_information_adjusted": "mutual information of digits, adjusted for chance",
    "reconstruction_error": "relative reconstruction error",
    "neighbours_kept_by_decoded": "10 nearest text neighbours kept, by decoded vectors",
    "neighbours_kept_by_digits": "10 nearest text neighbours kept, by equal digits",
    "untitled_fraction": "items without a title",
    "cut_fraction": "titles of more than K codes, cut",
    "padding_fraction": "codes that are padding",
}


def show_quality(quality: Mapping[str, Any]) -> None:
    """Print one table of the codes and one of their digits."""
    rows = [[text, f"{quality[name]:,}"] for name, text in COUNTS.items()]
    for name in (name for name in FRACTIONS if name in quality):
        rows.append([FRACTIONS[name], "-" if quality[name] is None else f"{quality[name]:.2%}"])
    gain = quality.get("mean_gain")
    rows.append(["gain of a digit from the last item's, mean, in nats", "-" if gain is None else f"{gain:.3f}"])
    console.table("Codes", ["", "value"], rows)
    digits, limit = quality["digits"], np.log2(quality["codewords"])
    rows = []
    for start in range(0, len(digits), DIGITS_PER_ROW):
        some = digits[start : start + DIGITS_PER_ROW]
        used = " ".join(f"{digit['used']:4d}" for digit in some)
        rows.append([f"{start + 1}-{start + len(some)}", used, " ".join(f"{digit['entropy']:5.2f}" for digit in some)])
    title = f"Digits: codewords used of {quality['codewords']:,}, entropy of at most {limit:.2f} bits"
    console.table(title, ["digits", "codewords used", "entropy (bits)"], rows)
