"""The worker process: takes deliveries, lets each be handled, and stops without losing or burning any."""

import asyncio
import logging
from collections.abc import Mapping

from consumer.backlog import Slots
from consumer.control_streams import Cancellations, CurrentPauses
from consumer.delivery_handler import DeliveryHandler
from consumer.metrics import WorkerMetrics
from consumer.plan import Plan
from consumer.rounds import Rounds
from shared.broker.publisher import Publisher
from shared.broker.subscriber import Subscriber, Subscription
from shared.broker.topology import bundle_queue, lane_queues, work_queue
from shared.health import Probe
from shared.kinds.registry import Lane, is_bundled
from shared.settings import Settings

logger = logging.getLogger(__name__)


class Worker:
    """Consumes the queues of some kinds until told to stop, or in rounds.

    How many jobs it has in hand is the prefetch limit of each queue: a delivery in hand is unacked. All of
    them run at once, unless their kind has slots.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        plan: Plan,
        handler: DeliveryHandler,
        publisher: Publisher,
        cancellations: Cancellations,
        pauses: CurrentPauses,
        metrics: WorkerMetrics,
        name: str,
        slots_by_kind: Mapping[str, Slots] | None = None,
        rounds: Rounds | None = None,
    ) -> None:
        """Make a worker that is not connected yet; without `rounds` it takes jobs all the time."""
        self._handler = handler
        self._publisher = publisher
        self._cancellations = cancellations
        self._pauses = pauses
        self._plan = plan
        self._slots = set((slots_by_kind or {}).values())
        self._rounds = rounds
        self._held: set[str] = set()
        self._is_resting = False
        self._grace_seconds = settings.worker_grace_seconds
        self._subscriber = Subscriber(
            settings.amqp_url,
            name=f"{name} consume",
            subscriptions=_subscriptions(plan, settings, handler),
            plain=settings.amqp_plain,
        )
        pauses.on_change(self._obey_pauses)
        metrics.in_hand.set_function(lambda: handler.in_hand)
        metrics.backlog.set_function(lambda: sum(slots.waiting for slots in self._slots))

    @property
    def probes(self) -> Mapping[str, Probe]:
        """The conditions under which it works, by name."""
        return {
            "publisher": lambda: self._publisher.is_ready,
            "cancellations": lambda: self._cancellations.is_well,
            "pauses": lambda: self._pauses.is_well,
            "consumers": lambda: self._subscriber.is_consuming,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set or the rounds end, then drain: what runs has the grace period to end.

        Jobs still running then are cancelled and go back to their queues; what has not begun goes at once.
        """
        async with asyncio.TaskGroup() as group:
            services = (self._publisher.run, self._cancellations.run, self._pauses.run, self._consume)
            connections = [group.create_task(service()) for service in services]
            await (self._rounds.run(self, stop) if self._rounds else stop.wait())
            await self._drain()
            for connection in connections:
                connection.cancel()

    async def has_nothing_to_do(self) -> bool:
        """Return whether nothing is in hand, and the broker has nothing for us in the queues not paused."""
        if self._handler.in_hand:
            return False
        return await self._subscriber.is_empty() and not self._handler.in_hand

    def rest(self) -> None:
        """Consume no queue until `resume`. What is in hand goes on."""
        self._is_resting = True
        self._hold()

    def resume(self) -> None:
        """Consume all queues that are not paused again."""
        self._is_resting = False
        self._hold()

    async def _consume(self) -> None:
        # It takes nothing before it knows what was cancelled and paused while it was not there.
        await self._cancellations.catch_up(self._publisher)
        await self._pauses.catch_up(self._publisher)
        await self._subscriber.run()

    def _obey_pauses(self) -> None:
        self._hold()
        for slots in self._slots:
            slots.put_back_paused()

    def _hold(self) -> None:
        lanes = [(kind, lane) for kind in self._plan.kinds for lane in self._plan.lanes]
        idle = [each for each in lanes if self._is_resting or self._pauses.cover(*each)]
        held = {queue for kind, lane in idle for queue in lane_queues(kind, lane)}
        if held != self._held:
            self._held = held
            self._subscriber.hold(held)
            logger.info("queues_held", extra={"queues": sorted(held)})

    async def _drain(self) -> None:
        await self._subscriber.stop_taking()
        for slots in self._slots:
            slots.shut()
        facts = {"in_hand": self._handler.in_hand, "grace_seconds": self._grace_seconds}
        logger.info("worker_draining", extra=facts)
        given_back = await self._handler.finish(grace_seconds=self._grace_seconds)
        await self._subscriber.flush()
        logger.info("worker_drained", extra={"given_back": given_back})


def _subscriptions(plan: Plan, settings: Settings, handler: DeliveryHandler) -> list[Subscription]:
    alone = [
        Subscription(work_queue(kind, lane), plan.prefetch(kind, lane, settings), handler.take)
        for kind in plan.kinds
        for lane in plan.lanes
    ]
    bundles = [
        Subscription(bundle_queue(kind), plan.bundle_prefetch(kind, settings), handler.take_bundle)
        for kind in plan.kinds
        if Lane.BULK in plan.lanes and is_bundled(kind, Lane.BULK)
    ]
    return alone + bundles
