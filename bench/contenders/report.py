"""What every contender prints in the end, as one line of JSON: seconds, metrics, and the largest memory it had."""

import json
import resource
from typing import Any


def report(train: float, evaluate: float, ndcg: float, recall: float, **more: Any) -> None:
    """Times are in seconds, the memory is in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"train": train, "evaluate": evaluate, "NDCG@10": float(ndcg), "Recall@10": float(recall)}
    print(json.dumps(found | {"peak_mib": peak} | more))
