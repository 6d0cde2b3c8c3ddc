"""A warning that stays is told at once, then every minute, with how often it came."""

import logging

import pytest

from shared import repeated_warning
from shared.repeated_warning import RepeatedWarning


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets: its first item is the time."""
    now = [0.0]
    monkeypatch.setattr(repeated_warning.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    return now


def test_the_same_is_told_once_a_minute_and_something_else_at_once(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    warning = RepeatedWarning(logging.getLogger("test"))
    with caplog.at_level(logging.DEBUG):
        for seconds, error in (
            (0, "away"),
            (1, "away"),
            (59, "away"),
            (60, "away"),
            (61, "full"),
            (62, "away"),
        ):
            clock[0] = seconds
            warning.tell("store_unavailable", {"error": error})

    told = [(r.levelname, vars(r)["error"], vars(r)["times"]) for r in caplog.records]
    assert told == [
        ("WARNING", "away", 1),
        ("DEBUG", "away", 2),
        ("DEBUG", "away", 3),
        ("WARNING", "away", 4),
        ("WARNING", "full", 1),
        ("WARNING", "away", 1),
    ]


def test_what_is_of_one_time_alone_makes_no_news(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    warning = RepeatedWarning(logging.getLogger("test"))
    for seconds, client in ((0, "a"), (1, "b"), (61, "c")):
        clock[0] = seconds
        warning.tell("refused", {"reason": "host"}, latest={"client": client})

    told = [(line.__dict__["client"], line.__dict__["times"]) for line in caplog.records]
    assert told == [("a", 1), ("c", 3)]
