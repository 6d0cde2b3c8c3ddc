"""A worker on a real broker: what is run again after a loss, what is not, and what stopping costs."""

import asyncio
import logging
import uuid
from uuid import UUID

import pytest
from aio_pika.abc import AbstractChannel
from pydantic import BaseModel

from consumer.plan import Plan
from consumer.politeness.host_limiters import FirstPermit
from deploy.local.broker import Broker
from shared.broker.bundle import NDJSON, bundled
from shared.broker.outgoing import Outgoing
from shared.broker.topology import (
    CANCELLED_STREAM,
    DEFAULT,
    JOBS,
    PARKED_QUEUE,
    PAUSED_STREAM,
    RECORDER_QUEUE,
    bundle_key,
    delay_queue,
    lane_queues,
    work_queue,
)
from shared.events import PAUSES_TYPE, Cancellation, PausedQueues, PauseSnapshot
from shared.kinds.registry import Lane
from shared.messages import JOBS_TYPE, JobMessage
from shared.outcomes import Failed, Outcome, Succeeded
from tests.support.amqp import get_message, message_count, open_channel, running_publisher
from tests.support.broker_node import taking_at_most
from tests.support.management import Management
from tests.support.raw_amqp import RawPublisher
from tests.support.waiting import eventually
from tests.support.worker import Work, final_report, job, working

WORK = work_queue("check", Lane.BULK)


async def test_work_under_way_is_not_started_again_when_its_connection_is_lost(
    vhost_url: str, management: Management, vhost: str
) -> None:
    work = Work()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(job())
        async with working(vhost_url, work, grace_seconds=10):
            await work.started.wait()
            await eventually(lambda: management.close_connections(vhost, name="test worker consume"))

            async def is_delivered_again() -> bool:
                queue = management.queue(vhost, WORK)
                return bool(queue.get("messages_unacknowledged") and queue.get("consumers"))

            await eventually(is_delivered_again)
            work.let_go.set()
            report = await final_report(channel)

            async def is_acked() -> bool:
                return await message_count(channel, WORK) == 0

            await eventually(is_acked)

        assert (work.starts, report.result) == (1, {"starts": 1})
        # Nothing is left over: neither the job nor a second report.
        assert await message_count(channel, WORK) == 0
        assert await message_count(channel, RECORDER_QUEUE) == 0


async def test_a_result_waits_for_the_broker_and_is_published_when_it_can_be(
    vhost_url: str, management: Management, vhost: str
) -> None:
    work = Work()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(job())
        async with working(vhost_url, work, grace_seconds=10):
            await work.started.wait()
            await eventually(lambda: management.close_connections(vhost, name="test worker publish"))
            work.let_go.set()

            report = await final_report(channel)

        assert report.state == "succeeded"
        assert await message_count(channel, WORK) == 0


async def test_stopping_gives_unfinished_work_back_at_the_same_attempt(vhost_url: str) -> None:
    work = Work()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(job())
        async with working(vhost_url, work):
            await work.started.wait()

        message = await get_message(channel, WORK)
        assert JobMessage.decode(message.body).attempt == 1
        assert message.redelivered
        assert await message_count(channel, PARKED_QUEUE) == 0


async def test_stopping_lets_work_end_within_the_grace_period(vhost_url: str) -> None:
    work = Work()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(job())
        async with working(vhost_url, work, grace_seconds=20) as stop:
            await work.started.wait()
            stop.set()
            work.let_go.set()

        assert (await final_report(channel)).state == "succeeded"
        assert await message_count(channel, WORK) == 0


async def test_a_stopping_worker_takes_nothing_new(vhost_url: str, caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(job(1))
        async with working(vhost_url, work, grace_seconds=20) as stop:
            await work.started.wait()

            async def takes_no_more() -> bool:
                # A quorum queue counts a cancelled consumer for as long as it has unsettled messages.
                return "worker_draining" in caplog.messages

            with caplog.at_level(logging.INFO):
                stop.set()
                await eventually(takes_no_more)
            await client.publish(job(2))
            work.let_go.set()

        assert work.starts == 1
        assert await message_count(channel, WORK) == 1


async def test_a_job_whose_workers_always_die_is_given_up_by_the_broker_and_reported(vhost_url: str) -> None:
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(job())
        queue = await channel.declare_queue(WORK, passive=True)
        deaths = 0
        while (message := await queue.get(fail=False)) is not None:
            # A reject counts as a delivery on every version, as the death of a worker does.
            await message.reject(requeue=True)
            deaths += 1
            assert deaths <= 25

        parked = await get_message(channel, PARKED_QUEUE)
        reported = await get_message(channel, RECORDER_QUEUE)
        assert deaths == 21
        assert parked.body == reported.body
        assert reported.exchange == "jobs.dead"


async def return_to_queue(channel: AbstractChannel, *, times: int) -> None:
    """Let the message at the head come back so often, as from workers that died with it."""
    queue = await channel.declare_queue(WORK, passive=True)
    for _ in range(times):
        message = await queue.get()
        await message.reject(requeue=True)


async def test_a_job_that_came_back_too_often_is_set_apart_and_not_tried_at_once(vhost_url: str) -> None:
    work = Work()
    work.let_go.set()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(job(1))
        await return_to_queue(channel, times=3)

        async with working(vhost_url, work):
            copy = await get_message(channel, RECORDER_QUEUE)
            starts = work.starts
            done = await final_report(channel)

    told = JobMessage.decode(copy.body)
    assert copy.exchange == "jobs.delay" and told.report is not None
    assert (told.report.state, told.report.reason, told.report.attempt) == ("delayed", "worker_lost", 0)
    assert (told.attempt, told.returns, starts) == (1, 3, 0)
    # After its delay it is tried like any other: nothing was burnt.
    assert (done.state, done.attempt, work.starts) == ("succeeded", 1, 1)


async def test_a_cancelled_job_that_came_back_too_often_ends_as_cancelled(vhost_url: str) -> None:
    work, message = Work(), job(1)
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(message)
        await client.publish(cancellation(message))
        await return_to_queue(channel, times=3)

        async with working(vhost_url, work):
            report = await final_report(channel)

    assert (report.state, work.starts) == ("cancelled", 0)


def cancellation(message: Outgoing) -> Outgoing:
    body = Cancellation(job_id=UUID(message.job_id), run=1).encode()
    return Outgoing(DEFAULT, CANCELLED_STREAM, body, "cancellation")


async def test_a_running_attempt_is_cancelled_and_reported(vhost_url: str) -> None:
    work, message = Work(), job()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(message)
        async with working(vhost_url, work):
            await work.started.wait()

            await client.publish(cancellation(message))

            report = await final_report(channel)
        assert (report.state, report.outcome, report.attempt) == ("cancelled", "cancelled", 1)
        assert await message_count(channel, WORK) == 0


async def test_a_job_cancelled_before_the_worker_started_never_runs(vhost_url: str) -> None:
    work, message, other = Work(), job(1), job(2)
    work.let_go.set()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(cancellation(message))
        await client.publish(message)
        await client.publish(other)

        async with working(vhost_url, work):
            reports = [await final_report(channel), await final_report(channel)]

        by_state = {report.state.value: report for report in reports}
        assert work.starts == 1
        assert str(by_state["succeeded"].job_id) == other.job_id
        assert (str(by_state["cancelled"].job_id), by_state["cancelled"].started_at) == (message.job_id, None)


async def test_cancelling_a_batch_reaches_every_job_of_it(vhost_url: str) -> None:
    work, batch_id = Work(), uuid.uuid4()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        for number in range(5):
            await client.publish(job(number, batch_id=batch_id))
        async with working(vhost_url, work):

            async def all_run() -> bool:
                return work.starts == 5

            await eventually(all_run)
            await client.publish(
                Outgoing(DEFAULT, CANCELLED_STREAM, Cancellation(batch_id=batch_id).encode(), "cancellation")
            )
            states = [(await final_report(channel)).state for _ in range(5)]

        assert states == ["cancelled"] * 5


async def test_a_job_that_was_redriven_after_its_batch_was_cancelled_runs(vhost_url: str) -> None:
    work, batch_id = Work(), uuid.uuid4()
    work.let_go.set()
    first, redriven = job(1, batch_id=batch_id), job(2, batch_id=batch_id, run=2)
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(
            Outgoing(DEFAULT, CANCELLED_STREAM, Cancellation(batch_id=batch_id).encode(), "cancellation")
        )
        await client.publish(first)
        await client.publish(redriven)

        async with working(vhost_url, work):
            reports = [await final_report(channel), await final_report(channel)]

    states = {str(report.job_id): (report.state.value, report.run) for report in reports}
    assert states == {first.job_id: ("cancelled", 1), redriven.job_id: ("succeeded", 2)}


async def test_cancellations_are_heard_again_after_a_lost_connection(
    vhost_url: str, management: Management, vhost: str
) -> None:
    work, message = Work(), job()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(message)
        async with working(vhost_url, work):
            await work.started.wait()
            await eventually(lambda: management.close_connections(vhost, name="test worker cancellations"))

            await client.publish(cancellation(message))

            assert (await final_report(channel)).state == "cancelled"


def snapshot(revision: int, *pauses: tuple[str, str]) -> Outgoing:
    queues = tuple(PausedQueues(kind=kind, lane=lane) for kind, lane in pauses)
    body = PauseSnapshot(revision=revision, pauses=queues).encode()
    return Outgoing(DEFAULT, PAUSED_STREAM, body, PAUSES_TYPE)


async def test_a_pause_lets_running_work_end_and_starts_no_more_until_the_resume(
    vhost_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def is_held() -> bool:
        return "queues_held" in caplog.messages

    work = Work()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(job(1))
        async with working(vhost_url, work, grace_seconds=10):
            await work.started.wait()
            await client.publish(snapshot(1, ("check", "*")))
            await eventually(is_held)
            await client.publish(job(2))
            work.let_go.set()
            first = await final_report(channel)
            assert (work.starts, await message_count(channel, WORK)) == (1, 1)

            # Late and repeated snapshots change nothing.
            await client.publish(snapshot(0))
            await client.publish(snapshot(1))
            await client.publish(snapshot(2))
            second = await final_report(channel)

        assert [(each.state, each.attempt) for each in (first, second)] == [("succeeded", 1)] * 2


async def test_a_worker_that_starts_during_a_pause_of_its_lane_takes_nothing_and_is_ready(
    vhost_url: str, management: Management, vhost: str
) -> None:
    work = Work()
    work.let_go.set()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(snapshot(5, ("*", "bulk")))
        await client.publish(job())
        async with working(vhost_url, work):

            async def is_consuming_the_other_lane() -> bool:
                other = work_queue("check", Lane.INTERACTIVE)
                declared = await channel.declare_queue(other, passive=True)
                return bool(declared.declaration_result.consumer_count)

            await eventually(is_consuming_the_other_lane)
            # Its connections are lost meanwhile: it must still know.
            await eventually(lambda: management.close_connections(vhost, name="test worker pauses"))
            await eventually(lambda: management.close_connections(vhost, name="test worker consume"))
            await eventually(is_consuming_the_other_lane)
            assert (work.starts, await message_count(channel, WORK)) == (0, 1)

            await client.publish(snapshot(6))

            assert (await final_report(channel)).state == "succeeded"


@pytest.mark.parametrize(("mine", "others"), [tuple(Lane), tuple(reversed(Lane))])
async def test_a_worker_of_one_lane_leaves_the_jobs_of_the_other(
    vhost_url: str, mine: Lane, others: Lane
) -> None:
    work = Work()
    work.let_go.set()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        for lane in (others, mine):
            await client.publish(job(lane=lane))
        parts = [each.body for each in (job(2), job(3))]
        await client.publish(
            Outgoing(JOBS, bundle_key("check"), bundled(parts), JOBS_TYPE, content_type=NDJSON)
        )
        async with working(vhost_url, work, grace_seconds=10, plan=Plan(("check",), lanes=(mine,))):
            reports = [await final_report(channel) for _ in range(3 if mine is Lane.BULK else 1)]

        assert {report.state for report in reports} == {"succeeded"}
        waiting = [await message_count(channel, queue) for queue in lane_queues("check", others)]
        assert waiting == [1] * len(lane_queues("check", others))


async def test_a_settled_job_whose_report_was_lost_ends_when_it_is_sent_again(vhost_url: str) -> None:
    work, message = Work(), job()
    work.let_go.set()
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        async with working(vhost_url, work, grace_seconds=10):
            reports = []
            for _ in range(3):
                await client.publish(message)
                # Taken out, the report never reaches a recorder.
                reports.append(await final_report(channel))

        assert await message_count(channel, WORK) == 0
    assert [(report.state, report.attempt) for report in reports] == [("succeeded", 1)] * 3


async def test_a_settled_job_whose_delayed_copy_was_lost_is_tried_again_when_it_is_sent_again(
    vhost_url: str,
) -> None:
    tries = 0

    async def fail(_: BaseModel, __: JobMessage, ___: FirstPermit) -> Outcome:
        nonlocal tries
        tries += 1
        return Failed("http_503", "The host answered 503.", transient=True)

    message = job()
    async with (
        running_publisher(vhost_url) as client,
        open_channel(vhost_url) as channel,
        working(vhost_url, fail, grace_seconds=10),
    ):
        for _ in range(2):
            await client.publish(message)
            copy = await get_message(channel, RECORDER_QUEUE)
            step = int((copy.routing_key or "").rpartition(".")[2].removesuffix("s"))
            await (await channel.declare_queue(delay_queue(step), passive=True)).purge()

    assert tries == 2


async def test_a_job_whose_next_copy_the_broker_does_not_take_is_parked_and_holds_up_no_other(
    vhost_url: str, broker: Broker
) -> None:
    async def fail_at_length(_: BaseModel, each: JobMessage, __: FirstPermit) -> Outcome:
        if each.args["url"].endswith("/0"):
            return Failed("http_503", "The host answered 503.", transient=True, result={"text": "y" * 9_000})
        return Succeeded({})

    with taking_at_most(broker, 8_000):
        async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
            async with working(vhost_url, fail_at_length, grace_seconds=10):
                for number in range(11):
                    await client.publish(job(number))
                told = [await get_message(channel, RECORDER_QUEUE) for _ in range(11)]
            assert await message_count(channel, WORK) == 0

    parked = [JobMessage.decode(each.body).report for each in told if each.exchange == "jobs.dead"]
    assert [(each.reason, each.attempt) for each in parked if each] == [("message_too_large", 1)]
    assert [each.exchange for each in told].count("results") == 10


async def test_a_job_whose_headers_nest_without_end_is_done_and_leaves_its_place(vhost_url: str) -> None:
    work = Work()
    work.let_go.set()
    async with running_publisher(vhost_url), open_channel(vhost_url) as channel:
        with RawPublisher(vhost_url) as publisher:
            for number in range(3):
                message = job(number)
                noted = nested_headers(2_000)
                await asyncio.to_thread(
                    publisher.publish, JOBS.encode(), b"check.bulk.stored", message.body, noted
                )
        async with working(vhost_url, work):
            reports = [await final_report(channel) for _ in range(3)]

            async def is_acked() -> bool:
                return await message_count(channel, WORK) == 0

            await eventually(is_acked)

    assert [report.state for report in reports] == ["succeeded"] * 3


def nested_headers(depth: int) -> bytes:
    """Return properties of a message whose one header is a table in a table in a table."""
    value = b"V"
    for _ in range(depth):
        entry = b"\x01a" + value
        value = b"F" + len(entry).to_bytes(4) + entry
    entry = b"\x01a" + value
    return b"\x20\x00" + len(entry).to_bytes(4) + entry
