"""Items that share digits of their codes, with titles, which show the attribute that a digit stands for.

MDGR, arXiv 2601.19501, assumes that parallel digits are independent attributes. ``quality.json`` measures the
independence by the mutual information between digits. If digit k is one attribute, then the items with the same code
at digit k have this attribute in common.
"""

from genrec_cli.data.catalog import Catalog
from genrec_cli.data.names import Names

EXAMPLES = 3
"""Examples shown per digit."""
MAX_DIGITS = 8
"""Digits shown per item."""


def sharing(catalog: Catalog, item: int, examples: int = EXAMPLES) -> list[tuple[int, int, list[int]]]:
    """For each digit of an item: its code, the count of other items with this code, and examples of them.

    The examples share as few other digits as possible; among equals, more training interactions come first.
    """
    assert catalog.codes_IK is not None
    codes_IK, count_I = catalog.codes_IK.cpu(), catalog.train_count_I.cpu()
    same_IK = codes_IK == codes_IK[item - 1]
    same_IK[item - 1] = False
    # One shared digit weighs more than any count of interactions.
    order_I = (same_IK.sum(1) * (int(count_I.max()) + 1) - count_I).argsort(stable=True)
    columns = [order_I[same_IK[order_I, k]] + 1 for k in range(catalog.digits)]
    codes = codes_IK[item - 1].tolist()
    return [(code, len(others), others[:examples].tolist()) for code, others in zip(codes, columns, strict=True)]


def described(catalog: Catalog, names: Names, items: list[int]) -> str:
    """The digits of items as Markdown; an empty text if digits share one table or are padded."""
    if catalog.codes_IK is None or catalog.shared or catalog.padded:
        return ""
    lines = ["## Items that share digits", ""]
    for item in dict.fromkeys(items):
        lines += [f"**{names.shown(item)}**", ""]
        for digit, (code, count, others) in enumerate(sharing(catalog, item)[:MAX_DIGITS], 1):
            shown = "; ".join(names.shown(other) for other in others) or "none"
            lines.append(f"- digit {digit}, code {code}, {count} others: {shown}")
        lines.append("")
    return "\n".join(lines)
