"""Workers that end when their queues are empty, and workers that empty them at a cadence."""

import asyncio
import logging
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from aio_pika.abc import AbstractChannel
from pydantic import BaseModel

from consumer.plan import Plan
from consumer.politeness.host_limiters import FirstPermit
from shared.broker.bundle import NDJSON, bundled
from shared.broker.outgoing import Outgoing
from shared.broker.topology import (
    DEFAULT,
    JOBS,
    PARKED_QUEUE,
    PAUSED_STREAM,
    RECORDER_QUEUE,
    bundle_key,
    bundle_queue,
    stored_key,
    work_queue,
)
from shared.errors import DrainStopped
from shared.events import PAUSES_TYPE, PausedQueues, PauseSnapshot
from shared.kinds.registry import Lane
from shared.messages import JOBS_TYPE, JobMessage
from shared.outcomes import Failed, Outcome, Succeeded
from tests.support.amqp import get_message, message_count, open_channel, running_publisher
from tests.support.environment import clean_environment
from tests.support.management import Management
from tests.support.waiting import eventually
from tests.support.worker import Gated, Work, build_worker, final_report, job

ROOT = Path(__file__).resolve().parents[2]
DRAIN = Plan(("check",), drains=True)
WORK = work_queue("check", Lane.BULK)
DEADLINE_SECONDS = 60


def start_drain(url: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a worker as a person or a timer does."""
    command = [sys.executable, "-W", "error", "-m", "consumer", "worker", "--kinds", "check", *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**clean_environment(), "RETRIEVER_AMQP_URL": url, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit status of a process, and what it wrote to standard error."""
    try:
        _, errors = await asyncio.to_thread(process.communicate, timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
    return process.returncode, errors


async def test_a_drain_of_empty_queues_ends_with_0_within_five_seconds(vhost_url: str) -> None:
    async with running_publisher(vhost_url):
        process = start_drain(vhost_url, "--drain")
        status, usage, connected_seconds = await asyncio.to_thread(measured, process)

    # However busy the machine is: what it computes, most of it imports, and what it waits for.
    assert status == 0
    assert usage.ru_utime + usage.ru_stime + connected_seconds < 5.0


def measured(process: subprocess.Popen[str]) -> tuple[int, resource.struct_rusage, float]:
    """Return how a process ended, what it used, and how long it took from its first words on."""
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        began_at = time.monotonic()
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage, time.monotonic() - began_at


async def test_a_drain_ends_after_the_last_of_all_jobs_and_loses_none(vhost_url: str) -> None:
    done: list[str] = []

    async def work(_: BaseModel, each: JobMessage, __: FirstPermit) -> Outcome:
        # Longer than a look at the queues, for some.
        await asyncio.sleep(0.1 if len(done) % 50 == 0 else 0.0)
        done.append(each.args["url"])
        return Succeeded({})

    alone = [job(number) for number in range(250)]
    parts = [job(number).body for number in range(1_000, 1_050)]
    interactive = job(2_000)
    bundles = [
        Outgoing(JOBS, bundle_key("check"), bundled(parts[at : at + 10]), JOBS_TYPE, content_type=NDJSON)
        for at in range(0, 50, 10)
    ]
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        urgent = Outgoing(JOBS, stored_key("check", Lane.INTERACTIVE), interactive.body, "job", "urgent")
        for message in [*alone, *bundles, urgent]:
            await client.publish(message)

        await asyncio.wait_for(build_worker(vhost_url, work, plan=DRAIN).run(asyncio.Event()), 60)

        assert len(done) == len(set(done)) == 301
        for queue in (WORK, bundle_queue("check"), work_queue("check", Lane.INTERACTIVE)):
            assert await message_count(channel, queue) == 0
        # Nothing that was acked lacks its report, and nothing comes again.
        reports = [await final_report(channel) for _ in range(301)]
        assert {report.state for report in reports} == {"succeeded"}
        assert len({report.job_id for report in reports}) == 301


async def test_a_process_that_drains_ends_with_0_after_all_its_jobs(vhost_url: str) -> None:
    # Workers visit no address of this machine: each job is parked at once. And each host has its own limit.
    urls = [f"http://127.0.1.{number}/" for number in range(150)]
    jobs = [JobMessage(id=uuid.uuid4(), kind="check", lane=Lane.BULK, args={"url": url}) for url in urls]
    key = stored_key("check", Lane.BULK)
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        for each in jobs:
            await client.publish(Outgoing(JOBS, key, each.encode(), "job", str(each.id)))

        options = ("--drain", "--order", "newest", "--concurrency", "3")
        assert await ended(start_drain(vhost_url, *options)) == (0, "")

        counts = [await message_count(channel, queue) for queue in (WORK, PARKED_QUEUE, RECORDER_QUEUE)]
        assert counts == [0, 150, 150]


async def is_in_hand(management: Management, vhost: str, *, count: int) -> None:
    async def is_there() -> bool:
        return bool(management.queue(vhost, WORK).get("messages_unacknowledged") == count)

    await eventually(is_there)


async def test_a_drain_waits_for_its_own_last_job_and_for_nobody_elses(
    vhost_url: str, management: Management, vhost: str
) -> None:
    work = Gated()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(job(1))
        queue = await channel.declare_queue(WORK, passive=True)
        others = await queue.get()
        await client.publish(job(2))
        draining = asyncio.create_task(build_worker(vhost_url, work, plan=DRAIN).run(asyncio.Event()))
        await work.until_started(1)
        await is_in_hand(management, vhost, count=2)
        assert not draining.done()

        await work.let("http://example.com/2")
        await asyncio.wait_for(draining, 30)

        assert work.starts == ["http://example.com/2"]
        await others.reject(requeue=True)
        assert (await get_message(channel, WORK)).redelivered


async def test_a_drain_leaves_paused_queues_and_what_waits_for_its_next_attempt(vhost_url: str) -> None:
    async def fail(_: BaseModel, __: JobMessage, ___: FirstPermit) -> Outcome:
        return Failed("http_503", "The host answered 503.", transient=True)

    pauses = PauseSnapshot(revision=1, pauses=(PausedQueues(kind="check", lane="interactive"),))
    urgent = Outgoing(JOBS, stored_key("check", Lane.INTERACTIVE), job(1).body, "job", "urgent")
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(Outgoing(DEFAULT, PAUSED_STREAM, pauses.encode(), PAUSES_TYPE))
        await client.publish(urgent)
        await client.publish(job(2))

        await asyncio.wait_for(build_worker(vhost_url, fail, plan=DRAIN).run(asyncio.Event()), 30)

        assert await message_count(channel, work_queue("check", Lane.INTERACTIVE)) == 1
        copy = await get_message(channel, RECORDER_QUEUE)
        assert (copy.exchange, JobMessage.decode(copy.body).attempt) == ("jobs.delay", 2)


async def test_a_drain_goes_on_after_a_lost_connection(
    vhost_url: str, management: Management, vhost: str
) -> None:
    work = Gated()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        for number in range(3):
            await client.publish(job(number))
        draining = asyncio.create_task(build_worker(vhost_url, work, plan=DRAIN).run(asyncio.Event()))
        await work.until_started(3)
        await eventually(lambda: management.close_connections(vhost, name="test worker consume"))
        await work.let(*(f"http://example.com/{number}" for number in range(3)))
        await asyncio.wait_for(draining, 60)

        assert len(work.starts) == 3
        assert [(await final_report(channel)).state for _ in range(3)] == ["succeeded"] * 3
        assert [await message_count(channel, queue) for queue in (WORK, RECORDER_QUEUE)] == [0, 0]


async def test_a_drain_that_is_told_to_stop_gives_back_what_it_has_and_ends_with_143(
    vhost_url: str, unused_port: int
) -> None:
    work, stop = Work(), asyncio.Event()
    worker = build_worker(vhost_url, work, plan=DRAIN)
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(job())
        draining = asyncio.create_task(worker.run(stop))
        await work.started.wait()
        stop.set()
        await asyncio.wait_for(draining, 30)

        assert JobMessage.decode((await get_message(channel, WORK)).body).attempt == 1
        assert worker._rounds is not None
        with pytest.raises(DrainStopped):
            worker._rounds.check()

    process = start_drain(f"amqp://127.0.0.1:{unused_port}/", "--drain")
    assert process.stdout is not None
    while "broker_unavailable" not in await asyncio.to_thread(process.stdout.readline):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    status, errors = await ended(process)
    assert (status, errors) == (143, "retriever: told to stop before the queues were empty\n")


async def consumers(channel: AbstractChannel) -> int:
    declared = await channel.declare_queue(WORK, passive=True)
    return declared.declaration_result.consumer_count or 0


async def test_a_worker_with_a_cadence_is_well_while_it_rests_and_takes_up_work_again(
    vhost_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    work, stop = Work(), asyncio.Event()
    work.let_go.set()
    # So long that it rests while we look, however slow the machine.
    worker = build_worker(vhost_url, work, plan=Plan(("check",), every_seconds=3_600))
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(job(1))
        running = asyncio.create_task(worker.run(stop))
        assert (await final_report(channel)).state == "succeeded"

        async def rests() -> bool:
            return "round_ended" in caplog.messages and not await consumers(channel)

        await eventually(rests)
        await client.publish(job(2))
        assert {name: probe() for name, probe in worker.probes.items()} == dict.fromkeys(
            ("publisher", "cancellations", "pauses", "consumers"), True
        )
        assert (work.starts, await message_count(channel, WORK)) == (1, 1)

        worker.resume()
        assert (await final_report(channel)).state == "succeeded"
        worker.rest()
        stop.set()
        await asyncio.wait_for(running, 30)

    assert work.starts == 2


async def test_a_worker_with_a_cadence_begins_again_and_ends_with_0_when_told_to(
    vhost_url: str,
) -> None:
    async with running_publisher(vhost_url):
        process = start_drain(vhost_url, "--every", "1s")
        assert process.stdout is not None
        began = 0
        while began < 2:
            line = await asyncio.to_thread(process.stdout.readline)
            assert line, "it ended"
            began += '"round_began"' in line
        process.send_signal(signal.SIGTERM)

        assert await ended(process) == (0, "")
