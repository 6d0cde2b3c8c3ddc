"""Compute processes: what they may take, whose turn it is, and that nothing is left of them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from consumer.compute.pool import ComputePool
from consumer.deadlines import time_limit
from consumer.http.failures import COMPUTE_BUSY, COMPUTE_CRASHED, COMPUTE_MEMORY, Failure
from consumer.metrics import WorkerMetrics
from tests.support import compute_work
from tests.support.waiting import eventually

ME = ("job", "host.example")
YOU = ("other", "other.example")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine may take long to give these processes a turn.
    monkeypatch.setattr("consumer.deadlines.COMPUTE_SECONDS", 300.0)
    monkeypatch.setattr("consumer.compute.pool.WAIT_SECONDS", 100.0)


@pytest.fixture
async def pool() -> AsyncIterator[ComputePool]:
    async with ComputePool(processes=1, cpu_seconds=1, memory_bytes=268_435_456) as opened:
        yield opened


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def resting(folder: Path, *, count: int = 1) -> list[int]:
    """Return the numbers of the processes that have begun `compute_work.rest`, once they are so many."""

    async def look() -> list[int] | None:
        found = [int(name) for name in os.listdir(folder)]  # noqa: PTH208 - a folder of a test
        return found if len(found) == count else None

    return await eventually(look)


async def test_a_call_comes_back_and_its_process_is_used_again(pool: ComputePool) -> None:
    assert pool.processes == 0

    assert await pool.run(ME, compute_work.shout, "hello", mark="?") == ("HELLO?", "?")
    assert await pool.run(ME, compute_work.pid) == await pool.run(YOU, compute_work.pid) != os.getpid()
    assert (pool.processes, pool.counts["done"], pool.ended) == (1, 3, 0)


async def test_what_takes_too_much_of_the_processor_is_ended_and_the_next_call_works(
    pool: ComputePool,
) -> None:
    failure = await pool.run(ME, compute_work.spin, 60.0)

    assert isinstance(failure, Failure)
    assert (failure.reason, failure.transient, failure.verdict) == ("compute_limit", False, None)
    assert "1 second" in failure.explanation
    assert (pool.processes, pool.ended, pool.counts["limit"]) == (0, 1, 1)
    assert await pool.run(ME, compute_work.shout, "a") == ("A!", "!")


async def test_what_wants_too_much_memory_is_told_and_the_next_call_works(pool: ComputePool) -> None:
    assert await pool.run(ME, compute_work.hog, 200_000_000) == 200_000_000
    assert await pool.run(ME, compute_work.hog, 300_000_000) is COMPUTE_MEMORY
    assert await pool.run(ME, compute_work.shout, "a") == ("A!", "!")


async def test_a_process_that_keeps_memory_is_replaced(pool: ComputePool) -> None:
    first = await pool.run(ME, compute_work.keep, 100_000_000)
    second = await pool.run(ME, compute_work.pid)

    assert isinstance(first, int) and first != second
    assert not is_alive(first)


async def test_a_call_whose_process_dies_is_made_once_more(pool: ComputePool, tmp_path: Path) -> None:
    assert await pool.run(ME, compute_work.die, str(tmp_path), 1) == 1
    assert (pool.ended, pool.counts["done"]) == (1, 1)


async def test_a_call_whose_processes_all_die_may_be_tried_again_later(
    pool: ComputePool, tmp_path: Path
) -> None:
    assert await pool.run(ME, compute_work.die, str(tmp_path), 5) is COMPUTE_CRASHED
    assert (COMPUTE_CRASHED.transient, COMPUTE_CRASHED.verdict) == (True, None)


async def test_a_process_that_somebody_kills_in_the_middle_of_a_call_is_replaced(
    pool: ComputePool, tmp_path: Path
) -> None:
    call = asyncio.create_task(pool.run(ME, compute_work.rest, str(tmp_path)))
    for deaths in (1, 2):
        for pid in await resting(tmp_path, count=deaths):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)

    assert await call is COMPUTE_CRASHED


async def test_a_cancelled_call_leaves_no_process(pool: ComputePool, tmp_path: Path) -> None:
    call = asyncio.create_task(pool.run(ME, compute_work.rest, str(tmp_path)))
    (pid,) = await resting(tmp_path)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert not is_alive(pid)
    assert await pool.run(ME, compute_work.shout, "a") == ("A!", "!")


async def test_closing_ends_all_processes() -> None:
    async with ComputePool(processes=2) as pool:
        pids = await asyncio.gather(*(pool.run((str(i),), compute_work.pid) for i in range(6)))

    assert not any(is_alive(pid) for pid in pids if isinstance(pid, int))


async def test_a_bug_of_ours_is_raised_with_its_traceback(pool: ComputePool) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'a bug'"):
        await pool.run(ME, compute_work.fail)


async def test_a_worker_takes_plain_values_from_a_process_and_nothing_else(pool: ComputePool) -> None:
    assert await pool.run(ME, compute_work.smuggle) is COMPUTE_CRASHED


async def test_a_process_has_no_network_no_environment_and_no_descriptor_but_its_own(
    pool: ComputePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVER_SECRET", "hunter2")
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    found = await pool.run(ME, compute_work.surroundings)
    outcome = await pool.run(ME, compute_work.connect, port)
    server.close()
    await server.wait_closed()

    assert not isinstance(found, Failure)
    descriptors, environment, niceness = found
    others = [name for name in descriptors if not name.startswith("/proc/")]
    assert sorted(name.partition(":")[0] for name in others) == ["/dev/null", "/dev/null", "socket"]
    assert "RETRIEVER_SECRET" not in environment
    assert niceness >= 5
    assert outcome == "PermissionError"


async def test_what_is_done_is_counted(pool: ComputePool) -> None:
    await pool.run(ME, compute_work.shout, "a")
    await pool.run(ME, compute_work.hog, 300_000_000)

    shown = generate_latest(WorkerMetrics(pool).registry).decode()

    assert 'retriever_compute_calls_total{outcome="done"} 1.0' in shown
    assert 'retriever_compute_calls_total{outcome="memory"} 1.0' in shown
    assert "retriever_compute_processes_ended_total 1.0" in shown
    assert "retriever_compute_waiting_calls 0.0" in shown


async def test_one_job_does_not_take_the_turn_of_another(pool: ComputePool) -> None:
    order: list[str] = []

    async def call(names: tuple[str, str], seconds: float) -> None:
        await pool.run(names, compute_work.spin, seconds)
        order.append(names[0])

    # The first is under way, the others wait in this order.
    await asyncio.gather(*(call(ME, 0.1) for _ in range(3)), call(YOU, 0.0))

    assert order == ["job", "other", "job", "job"]


async def test_who_has_used_much_leaves_the_last_process_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Counts half after ten seconds.
    monkeypatch.setattr("consumer.compute.shares.HEAVY_SECONDS", 0.0001)
    async with ComputePool(processes=2, cpu_seconds=2) as pool:
        await pool.run(ME, compute_work.spin, 0.1)
        calls = [asyncio.create_task(pool.run(ME, compute_work.rest, str(tmp_path))) for _ in range(2)]
        await resting(tmp_path)

        assert await pool.run(YOU, compute_work.shout, "a") == ("A!", "!")
        assert pool.waiting == 1
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_waiting_for_a_turn_counts_for_no_time_limit(pool: ComputePool) -> None:
    async def busy() -> object:
        return await pool.run(ME, compute_work.spin, 0.4)

    async def limited() -> object:
        with time_limit(0.3):
            return await pool.run(YOU, compute_work.shout, "a")

    _, answer = await asyncio.gather(busy(), limited())

    assert answer == ("A!", "!")


async def test_a_call_that_has_no_turn_in_time_may_be_tried_again_later(
    pool: ComputePool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("consumer.compute.pool.WAIT_SECONDS", 0.1)
    first = asyncio.create_task(pool.run(ME, compute_work.rest, str(tmp_path)))
    await resting(tmp_path)

    assert await pool.run(YOU, compute_work.shout, "a") is COMPUTE_BUSY
    assert (COMPUTE_BUSY.transient, COMPUTE_BUSY.verdict) == (True, None)
    assert (pool.waiting, pool.counts["busy"]) == (0, 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


def test_a_killed_worker_leaves_no_process(tmp_path: Path) -> None:
    program = (
        "import asyncio; from consumer.compute.pool import ComputePool\n"
        "from tests.support import compute_work\n"
        f"asyncio.run(ComputePool().run(('a',), compute_work.rest, {str(tmp_path)!r}))"
    )
    worker = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
    try:
        until = time.monotonic() + 60
        while not (found := list(tmp_path.iterdir())) and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        worker.kill()
        worker.wait()

    until = time.monotonic() + 30
    while is_alive(int(found[0].name)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_alive(int(found[0].name))
