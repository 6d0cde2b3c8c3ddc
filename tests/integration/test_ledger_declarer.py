"""Tests of the declarer: what is deleted at the broker comes back without anybody's doing."""

from producer.ledger.declarer import Declarer
from producer.ledger.turns import Turns
from producer.store.database import Database
from shared.broker.topology import DELAY, delay_queue, work_queue
from shared.kinds.registry import Lane
from shared.settings import Settings
from tests.support.amqp import running, running_publisher
from tests.support.management import Management
from tests.support.waiting import eventually


async def test_deleted_queues_and_bindings_are_declared_again(
    vhost_url: str, vhost: str, management: Management, store: Database
) -> None:
    async with running_publisher(vhost_url):
        pass
    management.delete_queue(vhost, work_queue("check", Lane.BULK))
    management.delete_queue(vhost, delay_queue(5))
    management.unbind(vhost, DELAY, "results.recorder")
    settings = Settings(amqp_url=vhost_url)

    async with running(Declarer(turns=Turns(store, "declarer"), settings=settings).run()):

        async def is_whole() -> bool:
            names = {queue["name"] for queue in management.queues(vhost)}
            is_bound = management.is_bound(vhost, DELAY, "results.recorder")
            return is_bound and {work_queue("check", Lane.BULK), delay_queue(5)} <= names

        await eventually(is_whole)
