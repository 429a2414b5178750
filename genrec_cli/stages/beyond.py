"""The part of an evaluation that goes beyond accuracy: of all users, and of slices of them."""

from typing import Any

import numpy as np

from genrec_cli.data.sequences import Split
from genrec_cli.engine import slices
from genrec_cli.engine.beyond import ListValues, consumed_popularity
from genrec_cli.engine.evaluation import Outcome
from genrec_cli.stages.trained import Run


def beyond_accuracy(trained: Run, outcome: Outcome, split: Split, vec_IE: np.ndarray | None) -> dict[str, Any]:
    """``beyond`` (protocol -> metric -> value) and ``slices`` (kind -> slice -> users, and the same) of an evaluation.

    The lists of the outcome are measured in their full length.
    """
    histories, train_count_I = trained.histories, trained.catalog.train_count_I.cpu().numpy()
    length_U = slices.history_length(histories, outcome.user, split)
    consumed_U = consumed_popularity(histories, outcome.user, length_U, train_count_I)
    values = {p: ListValues(r.item, train_count_I, consumed_U, vec_IE) for p, r in outcome.ranks.items()}
    parts = {
        "length": slices.bins(length_U, slices.LENGTHS),
        "cold-start": slices.bins(train_count_I[outcome.target - 1], slices.COLD_START),
    }
    return {
        "beyond": {protocol: value.means() for protocol, value in values.items()},
        "slices": {
            kind: {
                name: {"users": len(rows)} | {protocol: value.means(rows) for protocol, value in values.items()}
                for name, rows in bins
                if len(rows)
            }
            for kind, bins in parts.items()
        },
    }
