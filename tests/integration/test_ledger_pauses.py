"""Observer and pauser with a real broker: what they see, what they tell, and when again."""

import asyncio

from producer.ledger.observer import Observer
from producer.ledger.pauser import Pauser
from producer.ledger.turns import Turns
from producer.store import outbox, queues, submissions
from producer.store.database import Database
from shared.broker.outgoing import Outgoing
from shared.broker.stream import StreamReader
from shared.broker.topology import JOBS, PAUSED_STREAM, bundle_key, work_queue
from shared.clock import utc_now
from shared.events import PauseSnapshot
from shared.kinds.registry import Lane
from shared.settings import Settings
from tests.support.amqp import open_channel, running, running_publisher
from tests.support.api import running_api
from tests.support.factories import make_job
from tests.support.management import Management
from tests.support.waiting import eventually


async def test_lanes_are_seen_with_their_messages_and_workers_and_a_missing_one_is_left_out(
    store: Database, database_url: str, vhost_url: str
) -> None:
    settings = Settings(amqp_url=vhost_url, database_url=database_url)
    observer = Observer(store=store, turns=Turns(store, "observer"), settings=settings)
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        for _ in range(3):
            await publisher.publish(Outgoing(JOBS, "check.bulk", b"{}", "job"))
        for _ in range(2):
            await publisher.publish(Outgoing(JOBS, bundle_key("check"), b"{}\n{}", "jobs"))
        interactive = await channel.declare_queue(work_queue("check", Lane.INTERACTIVE), passive=True)
        arrived: asyncio.Queue[object] = asyncio.Queue()
        await interactive.consume(arrived.put)
        await channel.queue_delete(work_queue("fetch", Lane.BULK))

        async with running(observer.run()):

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


async def test_pauses_are_told_at_once_on_each_connection_and_now_and_then(
    store: Database, vhost_url: str, management: Management, vhost: str
) -> None:
    told: list[PauseSnapshot] = []
    reader = StreamReader(
        vhost_url,
        name="test",
        stream=PAUSED_STREAM,
        take=lambda body: told.append(PauseSnapshot.decode(body)),
    )

    async def told_so_often(times: int) -> None:
        async def look() -> bool:
            return len(told) >= times

        await eventually(look)

    async with running_publisher(vhost_url) as publisher, running(reader.run()):
        async with running(Pauser(store=store, publisher=publisher).run()):
            await told_so_often(1)
            await asyncio.to_thread(
                store.write, queues.pause, "check", "bulk", by="ann", note=None, now=utc_now()
            )
            await told_so_often(2)
            await eventually(lambda: management.close_connections(vhost, name="test publisher"))
            await told_so_often(3)
        async with running(Pauser(store=store, publisher=publisher, repeat_seconds=0.1).run()):
            await told_so_often(5)

    assert [len(snapshot.pauses) for snapshot in told[:5]] == [0, 1, 1, 1, 1]
    assert told[0].revision == 0 and len({snapshot.revision for snapshot in told[1:]}) == 1
