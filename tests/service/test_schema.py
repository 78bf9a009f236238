"""Requests of every shape that the description allows, and of many that it does not: none is a server error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as hypothesis_given
from served import quick, served

if TYPE_CHECKING:
    from pathlib import Path

schemathesis = pytest.importorskip("schemathesis")


def test_no_request_is_a_server_error(tmp_path: Path) -> None:
    given, engine = quick(tmp_path, max_tasks=10_000, queue=10_000)
    with served(given, engine) as client:
        schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
        tried = set()
        for found in schema.get_all_operations():
            operation = found.ok()
            tried.add(operation.label)

            @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @hypothesis_given(case=operation.as_strategy())
            def check(case: Any) -> None:
                answer = case.call(base_url=str(client.base_url), timeout=30)
                assert answer.status_code < 500, f"{case.method} {case.path}: {answer.status_code} {answer.text}"

            check()
    assert len(tried) >= 9
