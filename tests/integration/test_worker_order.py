"""Workers that run fewer jobs at once than they hold: which is next, and that none is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from consumer import backlog
from consumer.backlog import Order
from consumer.metrics import WorkerMetrics
from consumer.plan import Plan
from consumer.worker import Worker
from shared.broker.bundle import NDJSON, bundled
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import (
    CANCELLED_STREAM,
    DEFAULT,
    JOBS,
    PAUSED_STREAM,
    RECORDER_QUEUE,
    bundle_key,
    stored_key,
    work_queue,
)
from shared.clock import utc_now
from shared.events import PAUSES_TYPE, Cancellation, PausedQueues, PauseSnapshot
from shared.identity import new_id
from shared.kinds.command import COMMAND
from shared.kinds.registry import Lane
from shared.messages import JOBS_TYPE, JobMessage, Report
from tests.support.amqp import get_message, message_count, open_channel, running_publisher
from tests.support.management import Management
from tests.support.waiting import eventually
from tests.support.worker import Gated, build_worker, final_report, working

NEWEST = Plan(("check",), order=Order.NEWEST, concurrency=1)
COMMANDS = Plan((COMMAND,))


def message(name: str, *, kind: str = "check", lane: Lane = Lane.BULK) -> JobMessage:
    """Return a job that its handler knows by this name, created now."""
    args = {"url": "http://example.com/"} if kind == "check" else {"argv": ["true"]}
    return JobMessage(id=new_id(), kind=kind, lane=lane, args=args, ref=name)


def sent(job: JobMessage) -> Outgoing:
    return Outgoing(JOBS, stored_key(job.kind, job.lane), job.encode(), "job", str(job.id))


class Held:
    """A worker with one job running, `first`, and others in hand."""

    def __init__(
        self, worker: Worker, work: Gated, client: Publisher, channel: AbstractChannel, metrics: WorkerMetrics
    ) -> None:
        self.work = work
        self.stop = asyncio.Event()
        self.client = client
        self.channel = channel
        self.metrics = metrics
        self._worker = worker

    async def take(self, *jobs: JobMessage) -> None:
        """Publish jobs, and return once all wait for a slot, which `first` has."""
        for each in jobs:
            await self.client.publish(sent(each))
        await self.until_waiting(len(jobs))

    async def until_waiting(self, count: int) -> None:
        async def wait() -> bool:
            return self.metrics.registry.get_sample_value("retriever_backlog_jobs") == count

        await eventually(wait)

    async def until_in_hand(self, count: int) -> None:
        async def are_there() -> bool:
            return self._worker._handler.in_hand == count

        await eventually(are_there)

    async def until_ready(self, count: int, *, kind: str = "check", lane: Lane = Lane.BULK) -> None:
        async def are_there() -> bool:
            return await message_count(self.channel, work_queue(kind, lane)) == count

        await eventually(are_there)

    async def reports(self, count: int) -> list[Report]:
        """Return the next reports of ends; a slow machine may have put off jobs before."""
        ends: list[Report] = []
        while len(ends) < count:
            report = await final_report(self.channel)
            ends += [] if report.is_deferral else [report]
        return ends


@asynccontextmanager
async def holding(url: str, *, plan: Plan = NEWEST, grace_seconds: float = 0.0) -> AsyncIterator[Held]:
    """Run a worker whose only slot is taken while inside."""
    work = Gated()
    metrics = WorkerMetrics()
    worker = build_worker(url, work, plan=plan, grace_seconds=grace_seconds, metrics=metrics)
    async with running_publisher(url) as client, open_channel(url) as channel:
        held = Held(worker, work, client, channel, metrics)
        await client.publish(sent(message("first", kind=plan.kinds[0])))
        running = asyncio.create_task(worker.run(held.stop))
        try:
            await work.until_started(1)
            yield held
        finally:
            held.stop.set()
            await asyncio.wait_for(running, 30)


async def test_the_newest_of_the_jobs_in_hand_is_the_next(vhost_url: str) -> None:
    async with holding(vhost_url) as held:
        jobs = [message(name) for name in "abcde"]
        parts = [each.encode() for each in jobs[1:3]]
        await held.client.publish(
            Outgoing(JOBS, bundle_key("check"), bundled(parts), JOBS_TYPE, content_type=NDJSON)
        )
        for each in (jobs[0], *jobs[3:]):
            await held.client.publish(sent(each))
        await held.until_waiting(5)

        await held.work.let("first", "a", "b", "c", "d", "e")
        reports = await held.reports(6)

        assert held.work.starts == ["first", "e", "d", "c", "b", "a"]
        assert [report.state for report in reports] == ["succeeded"] * 6


async def test_a_worker_that_had_nothing_begins_with_the_newest_of_what_is_there(vhost_url: str) -> None:
    work = Gated("a", "b", "c")
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        for name in ("a", "b", "c"):
            await client.publish(sent(message(name)))
        async with working(vhost_url, work, plan=NEWEST, grace_seconds=20):
            for _ in range(3):
                await final_report(channel)

    # Nobody promises it: on a busy machine the first may come too early.
    assert work.starts in (["c", "b", "a"], ["a", "c", "b"], ["b", "c", "a"])


async def test_one_command_runs_at_a_time_and_those_of_the_interactive_lane_first(vhost_url: str) -> None:
    async with holding(vhost_url, plan=COMMANDS) as held:
        urgent = [message(name, kind=COMMAND, lane=Lane.INTERACTIVE) for name in ("b", "c", "d")]
        for each in [message("a", kind=COMMAND), *urgent]:
            await held.client.publish(sent(each))
        # Few are in hand: two of the lane that goes first, and the one that runs.
        await held.until_ready(1, kind=COMMAND, lane=Lane.INTERACTIVE)
        await held.until_ready(1, kind=COMMAND)
        # It has run for half a second by now, and those that wait have been there for as long.
        (running,) = [Report.decode((await get_message(held.channel, RECORDER_QUEUE)).body)]
        assert (running.state, running.kind) == ("running", COMMAND)
        assert held.work.starts == ["first"]

        await held.work.let("first", "b")
        await held.work.until_started(3)
        # The last of the interactive lane has taken the place of the one that ended.
        await held.until_waiting(2)
        await held.work.let("c", "d", "a")
        reports = await held.reports(5)

    assert held.work.starts == ["first", "b", "c", "d", "a"]
    assert {report.outcome for report in reports} == {"succeeded"}


async def test_jobs_that_wait_in_hand_are_reported_as_put_off_so_that_nobody_takes_them_for_lost(
    vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_TELL_AFTER_SECONDS", 0.01)
    async with holding(vhost_url) as held:
        waiting = message("a")
        await held.take(waiting)
        while (report := await next_report(held)).job_id != waiting.id:
            pass

        assert (report.state, report.reason) == ("delayed", "worker_busy")
        assert report.is_deferral and report.due_at is not None and report.due_at > utc_now()
        await held.work.let("first", "a")
        while (end := await next_report(held)).state != "succeeded" or end.job_id != waiting.id:
            pass
        assert end.attempt == 1


async def next_report(held: Held) -> Report:
    return Report.decode((await get_message(held.channel, RECORDER_QUEUE)).body)


async def test_a_worker_that_stops_gives_back_at_once_what_has_not_begun(vhost_url: str) -> None:
    async with holding(vhost_url, grace_seconds=60) as held:
        await held.take(message("a"), message("b"))
        held.stop.set()

        await held.until_ready(2)
        assert held.work.starts == ["first"]
        await held.work.let("first")
        assert [report.state for report in await held.reports(1)] == ["succeeded"]


async def test_jobs_in_hand_of_a_queue_that_is_paused_go_back_and_run_after_the_resume(
    vhost_url: str,
) -> None:
    async with holding(vhost_url) as held:
        await held.take(message("a"), message("b"))
        paused = PauseSnapshot(revision=1, pauses=(PausedQueues(kind="check", lane="*"),))
        await held.client.publish(Outgoing(DEFAULT, PAUSED_STREAM, paused.encode(), PAUSES_TYPE))

        # Through the shortest delay, which counts no attempt and no return.
        await held.until_ready(2)
        copies = [JobMessage.decode((await next_copy(held)).body) for _ in range(2)]
        assert [(copy.attempt, copy.deferrals) for copy in copies] == [(1, 1)] * 2
        assert {copy.report and copy.report.reason for copy in copies} == {"queue_paused"}
        assert held.work.starts == ["first"]

        await held.work.let("first", "a", "b")
        goes_on = PauseSnapshot(revision=2)
        await held.client.publish(Outgoing(DEFAULT, PAUSED_STREAM, goes_on.encode(), PAUSES_TYPE))
        assert [report.state for report in await held.reports(3)] == ["succeeded"] * 3


async def next_copy(held: Held) -> AbstractIncomingMessage:
    """Return what the recorder is told next by a copy, and not by a report."""
    while (message := await get_message(held.channel, RECORDER_QUEUE)).type == "report":
        pass
    return message


async def test_a_job_in_hand_that_is_cancelled_ends_at_once_and_was_never_started(vhost_url: str) -> None:
    async with holding(vhost_url) as held:
        cancelled = message("a")
        await held.take(cancelled)
        order = Cancellation(job_id=cancelled.id, run=1)
        await held.client.publish(Outgoing(DEFAULT, CANCELLED_STREAM, order.encode(), "cancellation"))

        (report,) = await held.reports(1)

        assert (report.job_id, report.state, report.started_at) == (cancelled.id, "cancelled", None)
        assert held.work.starts == ["first"]


async def test_jobs_in_hand_are_run_once_when_their_connection_is_lost(
    vhost_url: str, management: Management, vhost: str
) -> None:
    async with holding(vhost_url) as held:
        await held.take(message("a"), message("b"))
        await eventually(lambda: management.close_connections(vhost, name="test worker consume"))
        await held.work.let("first", "a", "b")
        await held.reports(3)
        await held.until_in_hand(0)

        assert held.work.starts == ["first", "b", "a"]
        assert await message_count(held.channel, RECORDER_QUEUE) == 0
