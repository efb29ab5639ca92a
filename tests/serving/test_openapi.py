"""The server keeps to its own OpenAPI, whatever is sent: requests made by schemathesis."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis")

OPERATIONS = {
    "GET /model", "POST /predict", "GET /v2", "GET /v2/health/live", "GET /v2/health/ready", "GET /v2/models/{name}",
    "GET /v2/models/{name}/ready", "POST /v2/models/{name}/infer", "GET /v2/models/{name}/versions/{version}",
    "GET /v2/models/{name}/versions/{version}/ready", "POST /v2/models/{name}/versions/{version}/infer",
}  # fmt: skip


def test_answers_are_those_of_the_description(address):
    """Statuses, content types and bodies are those of the description, and nothing is a 5xx.

    A description cannot say that bytes are an image, so bytes that fit it may be refused.
    """
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        seen.add(f"{operation.method.upper()} {operation.path}")

        @settings(
            max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate], derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def check(case):
            case.call_and_validate(timeout=30, excluded_checks=[positive_data_acceptance])

        check()
    assert seen == OPERATIONS
