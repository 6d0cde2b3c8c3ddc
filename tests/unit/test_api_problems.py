"""Errors as problems: what is our own fault is logged in full and told in general."""

import json

import pytest

from producer.api.problems import problem_response
from shared.errors import StoreRefused


def test_a_row_that_the_store_refuses_is_our_bug(caplog: pytest.LogCaptureFixture) -> None:
    response = problem_response(StoreRefused("NOT NULL constraint failed: jobs.host"))

    problem = json.loads(bytes(response.body))
    assert (response.status_code, problem["type"]) == (500, "about:blank")
    assert "jobs.host" not in problem["detail"]
    [record] = caplog.records
    assert (record.levelname, record.exc_info is not None) == ("ERROR", True)
