"""The watchdog: what counts as too long, what is waited out for ever, and how a hung process ends."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shared import watchdog
from shared.errors import StaysUnready
from shared.watchdog import EXIT_STATUS, Patience, loop_watched, watched

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a second of the watchdog pass in no time; return why it would have ended the process.

    A busy machine keeps a loop from turning for milliseconds: no reason to end the process of the tests.
    """
    would_end: list[str] = []
    monkeypatch.setattr(watchdog, "_TICK_SECONDS", 0.001)
    monkeypatch.setattr(watchdog, "_end_hard", would_end.append)
    return would_end


@pytest.fixture
def is_watched() -> Callable[[], bool]:
    """Return what says whether a loop of this test is watched; another test's service may be, too."""
    before = set(threading.enumerate())
    return lambda: any(thread.name == "loop watchdog" for thread in set(threading.enumerate()) - before)


def test_patience_counts_ticks_and_begins_anew_when_things_are_well() -> None:
    patience = Patience(3)
    seen = [patience.has_run_out(is_well=is_well) for is_well in (False, False, True, False, False, False)]

    assert seen == [False, False, False, False, False, True]


@pytest.mark.usefixtures("quick")
async def test_a_process_that_stays_unready_is_stopped_and_the_failing_probes_are_named() -> None:
    stop = asyncio.Event()
    probes = {"good": lambda: True, "bad": lambda: False, "worse": lambda: False}

    watching = watched(probes=probes, is_waiting=lambda: False, limit_seconds=5, stop=stop)
    with pytest.raises(StaysUnready, match=r"not ready for 5 s although .*: bad, worse"):
        async with asyncio.timeout(10), watching:
            await stop.wait()


@pytest.mark.usefixtures("quick")
async def test_a_process_that_waits_for_its_broker_or_store_is_left_alone() -> None:
    stop, looks, has_waited = asyncio.Event(), 0, asyncio.Event()

    def is_waiting() -> bool:
        nonlocal looks
        looks += 1
        if looks > 20:
            has_waited.set()
        return True

    async with (
        watched(probes={"bad": lambda: False}, is_waiting=is_waiting, limit_seconds=5, stop=stop),
        asyncio.timeout(10),
    ):
        await has_waited.wait()

    assert not stop.is_set()


@pytest.mark.usefixtures("quick")
async def test_a_process_that_was_told_to_stop_ends_well_however_long_it_drains() -> None:
    stop, looks = asyncio.Event(), 0

    def bad() -> bool:
        nonlocal looks
        looks += 1
        stop.set()
        return False

    async with watched(probes={"bad": bad}, is_waiting=lambda: False, limit_seconds=2, stop=stop):
        await stop.wait()
        await asyncio.sleep(0.05)

    assert looks == 1


@pytest.mark.usefixtures("quick")
async def test_a_failure_inside_is_not_hidden() -> None:
    stop = asyncio.Event()
    watching = watched(probes={"bad": lambda: False}, is_waiting=lambda: False, limit_seconds=2, stop=stop)
    with pytest.raises(LookupError):  # noqa: PT012
        async with asyncio.timeout(10), watching:
            await stop.wait()
            raise LookupError


async def test_zero_seconds_watch_nothing(is_watched: Callable[[], bool]) -> None:
    stop = asyncio.Event()
    async with watched(probes={"bad": lambda: False}, is_waiting=lambda: False, limit_seconds=0, stop=stop):
        with loop_watched(0):
            assert not is_watched()


async def test_a_loop_that_turns_is_left_alone_and_its_watch_ends_with_it(
    quick: list[str], is_watched: Callable[[], bool]
) -> None:
    with loop_watched(3_000):
        assert is_watched()
        for _ in range(50):
            await asyncio.sleep(0.001)

    assert not is_watched() and quick == []


BLOCKED = """
import asyncio, time
from shared import watchdog

async def main():
    with watchdog.loop_watched(2):
        await asyncio.sleep(0.1)
        block_for_ever()

def block_for_ever():
    print("blocked", flush=True)
    time.sleep(600)

watchdog._TICK_SECONDS = 0.2
asyncio.run(main())
"""


def test_a_process_whose_loop_hangs_ends_with_its_status_and_shows_where() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BLOCKED], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )

    assert ended.returncode == EXIT_STATUS == 70
    assert "retriever: the event loop has not turned for 2 s" in ended.stderr
    assert "in block_for_ever" in ended.stderr
