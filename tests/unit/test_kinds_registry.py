"""What is known of a kind from its arguments alone, however wrong they are."""

from datetime import timedelta
from typing import Any

import pytest

from shared.kinds.registry import attempt_seconds

HOSTILE: list[Any] = [
    10**400,
    -(10**400),
    1e308,
    float("inf"),
    float("nan"),
    -1,
    2**63,
    None,
    "30",
    [],
    {},
]


@pytest.mark.parametrize("kind", ["check", "fetch", "webhook", "command", "task", "no_such_kind"])
@pytest.mark.parametrize("asked", HOSTILE, ids=lambda value: str(value)[:12])
def test_a_time_that_no_arguments_of_ours_have_counts_as_none(kind: str, asked: Any) -> None:
    seconds = attempt_seconds(kind, {"timeout_seconds": asked})

    assert seconds == attempt_seconds(kind, {})
    assert timedelta(seconds=seconds) < timedelta(hours=1)


def test_a_time_that_a_job_asks_for_counts() -> None:
    default = attempt_seconds("fetch", {})

    assert attempt_seconds("fetch", {"timeout_seconds": 300}) - attempt_seconds(
        "fetch", {"timeout_seconds": 0.5}
    ) == pytest.approx(299.5)
    assert default > 30
