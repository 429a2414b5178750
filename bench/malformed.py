"""Random requests to a running service, from its own OpenAPI: no answer is a 5xx, all have their documented form.

    genrec serve mhl --port 8000 &
    python bench/malformed.py http://127.0.0.1:8000 --examples 100

Half of the requests fit the OpenAPI, half do not. Needs schemathesis.
"""

import argparse
from collections import Counter
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def check_service(url: str, examples: int) -> Counter[int]:
    """Send ``examples`` requests of each kind to each operation; the count of answers by status."""
    statuses: Counter[int] = Counter()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
                continue

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def one(case: Any) -> None:
                answer = case.call()
                statuses[answer.status_code] += 1
                case.validate_response(answer, checks=CHECKS)

            one()
    return statuses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--examples", type=int, default=100, help="Requests of each kind to each operation.")
    given_options = parser.parse_args()
    counts = check_service(given_options.url, given_options.examples)
    print(f"{sum(counts.values()):,} requests: {dict(sorted(counts.items()))}")
