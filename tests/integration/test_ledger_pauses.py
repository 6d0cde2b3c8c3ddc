"""The pause publisher with a real broker: what it publishes, and when again."""

import asyncio

from producer.ledger.pause_publisher import PausePublisher
from producer.store import queues
from producer.store.database import Database, RetryingStore
from shared.broker.stream import StreamReader
from shared.broker.topology import PAUSED_STREAM
from shared.clock import utc_now
from shared.events import PauseSnapshot
from tests.support.amqp import running, running_publisher
from tests.support.management import Management
from tests.support.waiting import eventually


async def test_pauses_are_told_at_once_on_each_connection_and_now_and_then(
    store: Database, vhost_url: str, management: Management, vhost: str
) -> None:
    told: list[PauseSnapshot] = []
    reader = StreamReader(
        vhost_url,
        name="test",
        stream=PAUSED_STREAM,
        take=lambda body, _: told.append(PauseSnapshot.decode(body)),
    )

    async def told_so_often(times: int) -> None:
        async def look() -> bool:
            return len(told) >= times

        await eventually(look)

    async with running_publisher(vhost_url) as publisher, running(reader.run()):
        async with running(PausePublisher(store=RetryingStore(store), publisher=publisher).run()):
            await told_so_often(1)
            await asyncio.to_thread(
                store.write, queues.pause, "check", "bulk", by="ann", note=None, now=utc_now()
            )
            await told_so_often(2)
            await eventually(lambda: management.close_connections(vhost, name="test publisher"))
            await told_so_often(3)
        async with running(
            PausePublisher(store=RetryingStore(store), publisher=publisher, repeat_seconds=0.1).run()
        ):
            await told_so_often(5)

    assert [len(snapshot.pauses) for snapshot in told[:5]] == [0, 1, 1, 1, 1]
    assert told[0].revision == 0 and len({snapshot.revision for snapshot in told[1:]}) == 1
