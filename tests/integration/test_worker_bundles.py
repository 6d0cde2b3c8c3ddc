"""Several jobs in one message, at a worker on a real broker: jobs by themselves, settled together."""

import uuid
from collections.abc import Sequence

from aio_pika.abc import AbstractChannel

from shared.broker.bundle import NDJSON, bodies_of, bundled
from shared.broker.outgoing import Outgoing
from shared.broker.topology import (
    DEFAULT,
    JOBS,
    PARKED_QUEUE,
    PAUSED_STREAM,
    RECORDER_QUEUE,
    bundle_key,
    bundle_queue,
    delay_queue,
)
from shared.events import PAUSES_TYPE, PausedQueues, PauseSnapshot
from shared.kinds.registry import Lane
from shared.messages import JOBS_TYPE, RAW_TYPE, REPORTS_TYPE, JobMessage, Report
from tests.support.amqp import get_message, message_count, open_channel, running_publisher
from tests.support.management import Management
from tests.support.waiting import eventually
from tests.support.worker import Gated, final_report, working

BUNDLES = bundle_queue("check")


def urls(count: int) -> list[str]:
    return [f"http://example.com/{number}" for number in range(count)]


def body(url: str) -> bytes:
    return JobMessage(id=uuid.uuid4(), kind="check", lane=Lane.BULK, args={"url": url}).encode()


def bundle(bodies: Sequence[bytes]) -> Outgoing:
    return Outgoing(JOBS, bundle_key("check"), bundled(bodies), JOBS_TYPE, content_type=NDJSON)


async def until_empty(management: Management, vhost: str) -> None:
    """Return once the queue of bundles holds nothing, in hand or ready."""

    async def is_empty() -> bool:
        return management.queue(vhost, BUNDLES).get("messages") == 0

    await eventually(is_empty)


async def test_each_job_of_a_bundle_is_reported_when_it_ends_and_the_bundle_is_acked_with_the_last(
    vhost_url: str, management: Management, vhost: str
) -> None:
    first, second = urls(2)
    work = Gated(first)
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(bundle([body(first), body(second)]))
        async with working(vhost_url, work, grace_seconds=20):
            await work.until_started(2)
            assert (await final_report(channel)).result == {"url": first}

            async def is_in_hand() -> bool:
                return bool(management.queue(vhost, BUNDLES).get("messages_unacknowledged") == 1)

            await eventually(is_in_hand)
            await work.let(second)
            assert (await final_report(channel)).result == {"url": second}
            await until_empty(management, vhost)

    assert sorted(work.starts) == [first, second]


async def test_jobs_that_end_together_are_reported_together(vhost_url: str) -> None:
    asked = urls(20)
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        for start in (0, 10):
            await client.publish(bundle([body(url) for url in asked[start : start + 10]]))
        async with working(vhost_url, Gated(*asked), grace_seconds=20, gathers=True):
            told: list[Report] = []
            messages = 0
            while len(told) < len(asked):
                message = await get_message(channel, RECORDER_QUEUE)
                messages += 1
                bodies = bodies_of(message.body)
                assert (message.type == REPORTS_TYPE) == (len(bodies) > 1)
                told += map(Report.decode, bodies)

        assert sorted(report.result["url"] for report in told if report.result) == sorted(asked)
        assert messages < len(asked)
        assert await message_count(channel, BUNDLES) == 0


async def test_stopping_in_the_middle_of_a_bundle_gives_all_of_it_back(vhost_url: str) -> None:
    first, second = urls(2)
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(bundle([body(first), body(second)]))
        stopped = Gated(first)
        async with working(vhost_url, stopped):
            await stopped.until_started(2)
            assert (await final_report(channel)).result == {"url": first}

        # What was done is repeated, in the same run and attempt: recorded it is once.
        async with working(vhost_url, Gated(first, second), grace_seconds=20):
            again = [await final_report(channel) for _ in range(2)]

        assert {report.result["url"] for report in again if report.result} == {first, second}
        assert {(report.run, report.attempt) for report in again} == {(1, 1)}
        assert await message_count(channel, BUNDLES) == 0
        assert await message_count(channel, PARKED_QUEUE) == 0


async def test_a_worker_that_loses_its_connection_repeats_no_job_of_a_bundle(
    vhost_url: str, management: Management, vhost: str
) -> None:
    first, second = urls(2)
    work = Gated(first)
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(bundle([body(first), body(second)]))
        async with working(vhost_url, work, grace_seconds=20):
            await work.until_started(2)
            assert (await final_report(channel)).result == {"url": first}
            await eventually(lambda: management.close_connections(vhost, name="test worker consume"))

            async def is_delivered_again() -> bool:
                queue = management.queue(vhost, BUNDLES)
                return bool(queue.get("messages_unacknowledged") and queue.get("consumers"))

            await eventually(is_delivered_again)
            await work.let(second)
            assert (await final_report(channel)).result == {"url": second}
            await until_empty(management, vhost)

        assert sorted(work.starts) == [first, second]
        assert await message_count(channel, RECORDER_QUEUE) == 0


async def test_a_line_that_nobody_can_read_is_parked_as_it_is_and_spoils_no_other(vhost_url: str) -> None:
    first, second = urls(2)
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(bundle([body(first), b'{"id": 7}', body(second)]))
        async with working(vhost_url, Gated(first, second), grace_seconds=20):
            parked = await get_message(channel, PARKED_QUEUE)
            assert (parked.body, parked.type) == (b'{"id": 7}', RAW_TYPE)

            recorded = [await get_message(channel, RECORDER_QUEUE) for _ in range(3)]

        reports = [Report.decode(message.body) for message in recorded if message.type != RAW_TYPE]
        assert {report.result["url"] for report in reports if report.result} == {first, second}
        assert await message_count(channel, BUNDLES) == 0


async def test_a_bundle_that_came_back_too_often_is_taken_apart_into_jobs_set_apart(
    vhost_url: str,
) -> None:
    asked = urls(3)
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(bundle([body(url) for url in asked]))
        await return_to_queue(channel, times=3)
        work = Gated(*asked)
        async with working(vhost_url, work, grace_seconds=20):
            reports = [
                JobMessage.decode((await get_message(channel, RECORDER_QUEUE)).body).report for _ in asked
            ]

        assert {report.reason for report in reports if report} == {"worker_lost"}
        assert await message_count(channel, BUNDLES) == 0
        waiting = sum([await message_count(channel, delay_queue(step)) for step in (1, 2)])
        assert (waiting, work.starts) == (len(asked), [])


async def return_to_queue(channel: AbstractChannel, *, times: int) -> None:
    """Let the message at the head come back so often, as from workers that died with it."""
    queue = await channel.declare_queue(BUNDLES, passive=True)
    for _ in range(times):
        message = await queue.get()
        assert message is not None
        await message.reject(requeue=True)


async def test_a_pause_of_the_bulk_lane_holds_bundles_too(vhost_url: str) -> None:
    [url] = urls(1)
    pause = PauseSnapshot(revision=1, pauses=(PausedQueues(kind="check", lane="bulk"),))
    resume = PauseSnapshot(revision=2)
    work = Gated(url)
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(Outgoing(DEFAULT, PAUSED_STREAM, pause.encode(), PAUSES_TYPE))
        await client.publish(bundle([body(url)]))
        async with working(vhost_url, work, grace_seconds=20):
            # The interactive lane is consumed, so the worker has read what is paused.
            interactive = await channel.declare_queue("jobs.check.interactive", passive=True)

            async def takes_interactive_jobs() -> bool:
                return bool((await interactive.declare()).consumer_count)

            await eventually(takes_interactive_jobs)
            assert (work.starts, await message_count(channel, BUNDLES)) == ([], 1)

            await client.publish(Outgoing(DEFAULT, PAUSED_STREAM, resume.encode(), PAUSES_TYPE))
            assert (await final_report(channel)).result == {"url": url}
