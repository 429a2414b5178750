"""The two protocols of evaluation: with the items of the user's history in the ranking, and without them.

The published tables on semantic IDs keep them. Every evaluation measures both. This module defines the layout of its
result and the names of the two protocols.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from genrec_cli.engine import metrics
from genrec_cli.errors import UsageError

Protocol = Literal["kept", "left_out"]
PROTOCOLS: tuple[Protocol, ...] = ("kept", "left_out")
LABELS = {"kept": "seen kept", "left_out": "seen left out"}
"""Names of the protocols in tables."""
CODE_LEVEL = "code_"
"""Before a metric: measured on distinct codes, so that items with equal codes count as one."""


def column(name: str, protocol: Protocol) -> str:
    """The name of a metric in tables of several runs: ``NDCG@10`` or ``NDCG@10, seen left out``."""
    return name if protocol == "kept" else f"{name}, {LABELS[protocol]}"


def parse(text: str) -> tuple[str, int, Protocol]:
    """``ndcg@10, seen left out`` to ``("NDCG", 10, "left_out")``; without a protocol, seen items are kept."""
    metric, comma, label = text.partition(",")
    known = {LABELS[protocol]: protocol for protocol in PROTOCOLS}
    protocol = known.get(label.strip().lower()) if comma else "kept"
    if protocol is None:
        hint = f"For example: '{column('NDCG@10', 'left_out')}'"
        raise UsageError(f"There is no protocol '{label.strip()}'. Protocols: {', '.join(known)}.", hint=hint)
    return *metrics.parse(metric), protocol


def canonical(text: str) -> str:
    """The name of a metric in tables: ``NDCG@10, seen left out``."""
    name, cutoff, protocol = parse(text)
    return column(f"{name}@{cutoff}", protocol)


def flat(result: Mapping[str, Any]) -> dict[str, float]:
    """All metrics of an evaluation's result by column; ``code_NDCG@10`` is that of codes."""
    levels = (("", "metrics"), (CODE_LEVEL, "code_metrics"))
    return {
        column(prefix + name, protocol): value
        for prefix, level in levels
        for protocol in PROTOCOLS
        for name, value in result.get(level, {}).get(protocol, {}).items()
    }


def table(result: Mapping[str, Any], names: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of one evaluation for people: one row per metric, one column per level and protocol."""
    levels = {"items": "metrics", "codes": "code_metrics", "items, exact": "exact_metrics"}
    levels = {label: key for label, key in levels.items() if key in result}
    head = ["metric", *(f"{label}, {LABELS[protocol]}" for label in levels for protocol in PROTOCOLS)]
    means = [result[key][protocol] for key in levels.values() for protocol in PROTOCOLS]
    return head, [[name, *(mean[name] for mean in means)] for name in names]
