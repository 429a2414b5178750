"""Items that share digits of their codes, with titles, so that a reader can judge what a digit means.

MDGR, arXiv 2601.19501, assumes that parallel digits are independent attributes. The mutual information between digits
(quality.json) measures the independence. The titles show the attributes: if digit k is one attribute, then the items
with the same code at digit k have that attribute in common.
"""

from genrec_cli.data.catalog import Catalog
from genrec_cli.data.names import Names

EXAMPLES = 3
"""Examples shown per digit."""
MOST_DIGITS = 8
"""Digits shown per item."""


def sharing(catalog: Catalog, item: int, examples: int = EXAMPLES) -> list[tuple[int, int, list[int]]]:
    """For each digit of an item: its code, the number of other items with that code, and examples of them.

    The examples share as few other digits as possible. Among equals, more training interactions come first.
    """
    codes_IK = catalog.codes_IK.cpu()
    same_IK = codes_IK == codes_IK[item - 1]
    same_IK[item - 1] = False
    count_I = catalog.train_count_I.cpu()
    # Sharing counts before popularity: one digit more weighs more than any number of interactions.
    order_I = (same_IK.sum(1) * (int(count_I.max()) + 1) - count_I).argsort(stable=True)
    found = []
    for k in range(catalog.digits):
        others = order_I[same_IK[order_I, k]]
        found.append((int(codes_IK[item - 1, k]), len(others), (others[:examples] + 1).tolist()))
    return found


def described(catalog: Catalog, names: Names, items: list[int]) -> str:
    """The same of some items as Markdown; an empty text if digits are shared or padded."""
    if catalog.codes_IK is None or catalog.shared or catalog.padded:
        return ""
    lines = ["## Items that share digits", ""]
    for item in dict.fromkeys(items):
        lines += [f"**{names.shown(item)}**", ""]
        for digit, (code, number, others) in enumerate(sharing(catalog, item)[:MOST_DIGITS], 1):
            shown = "; ".join(names.shown(other) for other in others) or "none"
            lines.append(f"- digit {digit}, code {code}, {number} others: {shown}")
        lines.append("")
    return "\n".join(lines)
