"""The topology on a real broker: it declares twice, and every key leads where the design says."""

import json

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity, PublishError

from shared.broker.topology import (
    CANCELLED_STREAM,
    DEAD,
    DELAY,
    INTERACTIVE_RESULTS_QUEUE,
    JOBS,
    LARGE_INTERACTIVE_RESULTS_QUEUE,
    LARGE_RESULTS,
    LARGE_RESULTS_QUEUE,
    PARKED_QUEUE,
    PAUSED_STREAM,
    RECORDER_QUEUE,
    RESULTS,
    declare_topology,
    delay_key,
    delay_queue,
    is_interactive_key,
    queues,
    stored_key,
    verify_topology,
    work_key,
    work_queue,
)
from shared.kinds.registry import KINDS, Lane
from shared.retry import DELAY_STEPS_SECONDS
from tests.support.amqp import get_message, message_count, open_channel
from tests.support.management import Management
from tests.support.waiting import eventually


async def publish(channel: AbstractChannel, exchange: str, key: str, body: bytes = b"{}") -> None:
    await aio_pika.Exchange(channel, exchange).publish(aio_pika.Message(body), key, mandatory=True)


async def test_declaring_twice_changes_nothing(vhost_url: str, management: Management, vhost: str) -> None:
    async with open_channel(vhost_url) as channel:
        await declare_topology(channel, KINDS)
        first = {queue["name"]: queue["arguments"] for queue in management.queues(vhost)}

        await declare_topology(channel, KINDS)

    assert {queue["name"]: queue["arguments"] for queue in management.queues(vhost)} == first
    assert set(first) == {spec.name for spec in queues(KINDS)}


async def test_every_queue_is_durable_and_replicated_and_loses_nothing(
    vhost_url: str, management: Management, vhost: str
) -> None:
    async with open_channel(vhost_url) as channel:
        await declare_topology(channel, KINDS)

    for queue in management.queues(vhost):
        arguments = queue["arguments"]
        expected = "stream" if queue["name"] in {CANCELLED_STREAM, PAUSED_STREAM} else "quorum"
        assert queue["durable"] and arguments["x-queue-type"] == expected, queue["name"]
        if "x-dead-letter-exchange" in arguments:
            assert arguments["x-dead-letter-strategy"] == "at-least-once", queue["name"]
            assert arguments["x-overflow"] == "reject-publish", queue["name"]


async def test_a_missing_queue_is_noticed_before_anything_is_published(vhost_url: str) -> None:
    async with open_channel(vhost_url) as channel:
        await declare_topology(channel, KINDS)
        await verify_topology(channel, KINDS)

        await channel.queue_delete(delay_queue(5))

        with pytest.raises(ChannelNotFoundEntity, match=delay_queue(5)):
            await verify_topology(channel, KINDS)


async def test_each_delay_key_reaches_its_own_step_and_the_recorder(vhost_url: str) -> None:
    async with open_channel(vhost_url) as channel:
        await declare_topology(channel, KINDS)
        # The short steps expire while the test looks at them; they are tested below.
        steps = [step for step in DELAY_STEPS_SECONDS if step >= 60]

        for step in steps:
            await publish(channel, DELAY, delay_key("check", Lane.BULK, step))

        assert {step: await message_count(channel, delay_queue(step)) for step in steps} == dict.fromkeys(
            steps, 1
        )
        assert await message_count(channel, RECORDER_QUEUE) == len(steps)


async def test_a_delayed_message_comes_home_after_its_step_and_not_before(vhost_url: str) -> None:
    async with open_channel(vhost_url) as channel:
        await declare_topology(channel, KINDS)

        await publish(channel, DELAY, delay_key("fetch", Lane.INTERACTIVE, 1), b'{"n": 1}')

        assert await message_count(channel, work_queue("fetch", Lane.INTERACTIVE)) == 0
        message = await get_message(channel, work_queue("fetch", Lane.INTERACTIVE))
        assert json.loads(message.body) == {"n": 1}
        assert message.routing_key == "fetch.interactive.1s"
        assert message.exchange == "jobs.return"


async def test_lanes_and_kinds_have_queues_of_their_own(vhost_url: str) -> None:
    async with open_channel(vhost_url) as channel:
        await declare_topology(channel, KINDS)

        await publish(channel, JOBS, "check.bulk")

        counts = {
            (kind, lane): await message_count(channel, work_queue(kind, lane))
            for kind in KINDS
            for lane in Lane
        }
        assert counts == {key: int(key == ("check", Lane.BULK)) for key in counts}


async def test_the_recorder_hears_of_jobs_of_third_parties_and_of_none_that_is_stored(vhost_url: str) -> None:
    async with open_channel(vhost_url) as channel:
        await declare_topology(channel, KINDS)
        keys = [(kind, lane) for kind in KINDS for lane in Lane]

        for kind, lane in keys:
            await publish(channel, JOBS, work_key(kind, lane))
            await publish(channel, JOBS, stored_key(kind, lane))

        assert await message_count(channel, RECORDER_QUEUE) == len(keys)
        assert {await message_count(channel, work_queue(*key)) for key in keys} == {2}


async def test_reports_of_the_interactive_lane_are_copied_to_queues_of_their_own(vhost_url: str) -> None:
    reports = [
        (RESULTS, "check.{}.succeeded"),
        (DELAY, "check.{}.60s"),
        (DEAD, "check.{}"),
        (DEAD, "check.{}.stored"),
    ]
    async with open_channel(vhost_url) as channel:
        await declare_topology(channel, KINDS)

        for lane in Lane:
            for exchange, key in [*reports, (LARGE_RESULTS, "fetch.{}.succeeded")]:
                await publish(channel, exchange, key.format(lane))

        # A ledger that knows of no copies hears of all.
        assert await message_count(channel, RECORDER_QUEUE) == len(Lane) * len(reports)
        assert await message_count(channel, LARGE_RESULTS_QUEUE) == len(Lane)
        assert await message_count(channel, INTERACTIVE_RESULTS_QUEUE) == len(reports)
        assert await message_count(channel, LARGE_INTERACTIVE_RESULTS_QUEUE) == 1
    assert {lane for lane in Lane for _, key in reports if is_interactive_key(key.format(lane))} == {
        Lane.INTERACTIVE
    }


async def test_a_worker_does_without_the_queues_of_copies(vhost_url: str) -> None:
    async with open_channel(vhost_url) as channel:
        await declare_topology(channel, KINDS)

        await channel.queue_delete(INTERACTIVE_RESULTS_QUEUE)

        await verify_topology(channel, KINDS)


@pytest.mark.parametrize("key", ["nosuchkind.bulk", "check.nosuchlane", "check", "nosuchkind.bulk.stored"])
async def test_a_job_of_no_known_kind_or_lane_comes_back_to_who_published_it(
    vhost_url: str, key: str
) -> None:
    async with open_channel(vhost_url) as channel:
        await declare_topology(channel, KINDS)

        with pytest.raises(PublishError):
            await publish(channel, JOBS, key)


async def test_a_parked_message_reaches_the_parking_queue_and_the_recorder(vhost_url: str) -> None:
    async with open_channel(vhost_url) as channel:
        await declare_topology(channel, KINDS)

        await publish(channel, DEAD, "check.bulk")

        assert await message_count(channel, PARKED_QUEUE) == 1
        assert await message_count(channel, RECORDER_QUEUE) == 1


async def test_a_delayed_message_without_a_home_is_parked_and_blocks_nothing(vhost_url: str) -> None:
    async with open_channel(vhost_url) as channel:
        await declare_topology(channel, KINDS)

        # More than the 32 unroutable dead letters that stall an at-least-once queue for good.
        for _ in range(40):
            await publish(channel, DELAY, delay_key("nosuchkind", Lane.BULK, 1))
        await publish(channel, DELAY, delay_key("check", Lane.BULK, 1))

        await get_message(channel, work_queue("check", Lane.BULK))

        async def all_parked() -> bool:
            return await message_count(channel, PARKED_QUEUE) == 40

        await eventually(all_parked)
        # The recorder hears of each twice: when it was delayed, and when it found no queue.
        assert await message_count(channel, RECORDER_QUEUE) == 40 + 1 + 40
