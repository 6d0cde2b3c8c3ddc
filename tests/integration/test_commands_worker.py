"""A real worker for commands on a real broker: its reports, its stop, its death."""

import asyncio
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aio_pika.abc import AbstractChannel

from consumer.commands.descendants import Process, descendants, list_processes
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import JOBS, PARKED_QUEUE, stored_key, work_queue
from shared.kinds.registry import Lane
from shared.messages import JOB_TYPE, JobMessage
from shared.outcomes import OutcomeName
from tests.support.amqp import get_message, message_count, open_channel, running_publisher
from tests.support.environment import clean_environment
from tests.support.waiting import eventually
from tests.support.worker import final_report

QUEUE = work_queue("command", Lane.INTERACTIVE)
# A worker has to start, beside all else that this machine does.
DEADLINE_SECONDS = 60.0
# None of which hears SIGTERM: a shell, one that has left its session, and what both wait for.
_ENDLESS = "trap : TERM; while :; do sleep 600; done"
STUBBORN = f"(setsid sh -c '{_ENDLESS}' &); {_ENDLESS}"


@pytest.fixture
async def publisher(vhost_url: str) -> AsyncIterator[Publisher]:
    async with running_publisher(vhost_url) as running:
        yield running


@pytest.fixture
async def channel(vhost_url: str, publisher: Publisher) -> AsyncIterator[AbstractChannel]:
    async with open_channel(vhost_url) as opened:
        yield opened


@contextmanager
def running_worker(url: str, folder: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker for commands in a process of its own while inside."""
    settings = {
        "command_programs": "printf,sh",
        "command_folder": str(folder),
        "worker_grace_seconds": "0",
        "amqp_url": url,
        **settings,
    }
    environment = {f"RETRIEVER_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-W", "error", "-m", "consumer", "worker", "--kinds", "command"]
    with subprocess.Popen(command, env={**clean_environment(), **environment}) as worker:
        try:
            yield worker
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)


async def send(publisher: Publisher, *argv: str, **args: Any) -> JobMessage:
    job = JobMessage(id=uuid.uuid4(), kind="command", args={"argv": argv, **args})
    key = stored_key("command", Lane.INTERACTIVE)
    await publisher.publish(Outgoing(JOBS, key, job.encode(), JOB_TYPE, str(job.id)))
    return job


async def stubborn_processes(worker: subprocess.Popen[bytes]) -> set[tuple[int, int]]:
    """Return what `STUBBORN` has started, as soon as all of it runs."""

    async def look() -> list[Process] | None:
        processes = list_processes()
        below = descendants([worker.pid], processes)
        # The supervisor, two shells, two times `sleep`.
        return below if len(below) >= 5 else None

    found = await eventually(look, deadline_seconds=DEADLINE_SECONDS)
    return {(process.pid, process.started) for process in found}


async def are_gone(processes: set[tuple[int, int]]) -> None:
    async def look() -> bool:
        # Tests before may have made this process the heir of orphans; it reaps none, and those are dead.
        alive = [found for found in list_processes().values() if not found.is_dead]
        return processes.isdisjoint((found.pid, found.started) for found in alive)

    await eventually(look)


async def test_what_a_command_came_to_is_reported_and_a_failure_parked(
    vhost_url: str, publisher: Publisher, channel: AbstractChannel, tmp_path: Path
) -> None:
    with running_worker(vhost_url, tmp_path / "folders"):
        await send(publisher, "printf", "hi")
        succeeded = await final_report(channel)
        await send(publisher, "sh", "-c", "echo no >&2; exit 3")
        parked = JobMessage.decode((await get_message(channel, PARKED_QUEUE)).body).report
        await send(publisher, "ls")
        refused = JobMessage.decode((await get_message(channel, PARKED_QUEUE)).body).report

    assert succeeded.result is not None and succeeded.result["stdout"]["text"] == "hi"
    assert parked is not None and parked.result is not None
    assert (parked.reason, parked.outcome) == ("exit_3", OutcomeName.FAILED_PERMANENT)
    assert parked.result["stderr"]["text"] == "no\n"
    assert refused is not None and (refused.reason, refused.result) == ("not_allowed", None)


async def test_a_worker_that_stops_ends_its_commands_and_gives_them_back(
    vhost_url: str, publisher: Publisher, channel: AbstractChannel, tmp_path: Path
) -> None:
    with running_worker(vhost_url, tmp_path / "folders") as worker:
        await send(publisher, "sh", "-c", STUBBORN)
        running = await stubborn_processes(worker)

        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 30) == 0

        await are_gone(running)
    message = await get_message(channel, QUEUE)
    assert JobMessage.decode(message.body).attempt == 1
    assert await message_count(channel, PARKED_QUEUE) == 0
    assert not any((tmp_path / "folders").iterdir())


async def test_no_orphan_survives_a_worker_that_is_killed_and_the_next_one_repeats_the_attempt(
    vhost_url: str, publisher: Publisher, channel: AbstractChannel, tmp_path: Path
) -> None:
    with running_worker(vhost_url, tmp_path / "folders") as worker:
        job = await send(publisher, "sh", "-c", f"[ -e {tmp_path}/again ] && exit 7; {STUBBORN}")
        running = await stubborn_processes(worker)

        worker.kill()
        await are_gone(running)

    assert not any((tmp_path / "folders").iterdir())
    with running_worker(vhost_url, tmp_path / "folders") as second:
        await stubborn_processes(second)
    assert JobMessage.decode((await get_message(channel, QUEUE)).body).id == job.id


async def test_a_worker_for_commands_that_may_run_nothing_does_not_start(vhost_url: str) -> None:
    with running_worker(vhost_url, Path("/tmp/none"), command_programs="") as worker:  # noqa: S108
        assert await asyncio.to_thread(worker.wait, 60) == 2
