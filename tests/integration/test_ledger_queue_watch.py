"""The queue watch with a real broker: what it sees, and what comes back without anybody's doing."""

import asyncio

from producer.ledger.queue_watch import QueueWatch
from producer.store import outbox, queues, submissions
from producer.store.database import Database, RetryingStore
from shared.broker.outgoing import Outgoing
from shared.broker.topology import DELAY, JOBS, bundle_key, delay_queue, work_queue
from shared.clock import utc_now
from shared.kinds.registry import Lane
from shared.settings import Settings
from tests.support.amqp import open_channel, running, running_publisher
from tests.support.api import running_api
from tests.support.factories import make_job
from tests.support.management import Management
from tests.support.waiting import eventually


async def test_lanes_are_seen_with_their_messages_and_workers_and_a_missing_queue_is_there_again(
    store: Database, database_url: str, vhost_url: str
) -> None:
    settings = Settings(amqp_url=vhost_url, database_url=database_url)
    watch = QueueWatch(store=RetryingStore(store), settings=settings)
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        for _ in range(3):
            await publisher.publish(Outgoing(JOBS, "check.bulk", b"{}", "job"))
        for _ in range(2):
            await publisher.publish(Outgoing(JOBS, bundle_key("check"), b"{}\n{}", "jobs"))
        interactive = await channel.declare_queue(work_queue("check", Lane.INTERACTIVE), passive=True)
        arrived: asyncio.Queue[object] = asyncio.Queue()
        await interactive.consume(arrived.put)
        await channel.queue_delete(work_queue("fetch", Lane.BULK))

        async with running(watch.run()):

            async def seen() -> dict[str, tuple[int, int]] | None:
                known = await asyncio.to_thread(store.read, queues.circumstances, now=utc_now())
                return {
                    queue.name: (queue.ready, queue.consumers)
                    for queue in known.queues.values()
                    if queue.kind in {"check", "fetch"}
                }

            assert await eventually(seen) == {
                "jobs.check.bulk": (5, 0),
                "jobs.check.interactive": (0, 1),
                "jobs.fetch.bulk": (0, 0),
                "jobs.fetch.interactive": (0, 0),
            }

        job = make_job(lane=Lane.BULK)
        await asyncio.to_thread(store.write, submissions.insert_jobs, [job])
        await asyncio.to_thread(store.write, outbox.mark_queued, [(job.id, 1)], now=utc_now())
        with running_api(settings) as api:
            said = (await asyncio.to_thread(api.client.get, f"/jobs/{job.id}")).json()["explanation"]
    assert said.startswith(
        "No worker for check in lane bulk is connected; 5 messages wait in queues jobs.check.bulk and "
        "jobs.check.bundles (seen "
    )


async def test_deleted_queues_and_bindings_are_declared_again(
    vhost_url: str, vhost: str, management: Management, store: Database
) -> None:
    async with running_publisher(vhost_url):
        pass
    management.delete_queue(vhost, work_queue("check", Lane.BULK))
    management.delete_queue(vhost, delay_queue(5))
    management.unbind(vhost, DELAY, "results.recorder")
    settings = Settings(amqp_url=vhost_url)

    async with running(QueueWatch(store=RetryingStore(store), settings=settings).run()):

        async def is_whole() -> bool:
            names = {queue["name"] for queue in management.queues(vhost)}
            is_bound = management.is_bound(vhost, DELAY, "results.recorder")
            return is_bound and {work_queue("check", Lane.BULK), delay_queue(5)} <= names

        await eventually(is_whole)


async def test_queues_are_seen_but_for_missing_ones_while_something_has_other_arguments(
    store: Database, vhost_url: str, vhost: str, management: Management
) -> None:
    async with running_publisher(vhost_url), open_channel(vhost_url) as channel:
        # Declared in this order: what comes after the first is not reached.
        management.delete_queue(vhost, work_queue("check", Lane.BULK))
        await channel.declare_queue(work_queue("check", Lane.BULK), durable=True)
        management.delete_queue(vhost, work_queue("fetch", Lane.BULK))
        watch = QueueWatch(store=RetryingStore(store), settings=Settings(amqp_url=vhost_url))

        async with running(watch.run()):

            async def seen() -> set[str] | None:
                known = await asyncio.to_thread(store.read, queues.circumstances, now=utc_now())
                return {queue.name for queue in known.queues.values() if queue.kind in {"check", "fetch"}}

            names = await eventually(seen)

    assert names == {"jobs.check.bulk", "jobs.check.interactive", "jobs.fetch.interactive"}
