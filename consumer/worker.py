"""The worker process: takes deliveries, lets each be handled, and stops without losing or burning any."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from consumer.control_streams import Cancellations, CurrentPauses
from consumer.delivery_handler import DeliveryHandler
from consumer.metrics import WorkerMetrics
from shared.broker.publisher import Publisher
from shared.broker.subscriber import Subscriber, Subscription
from shared.broker.topology import bundle_queue, lane_queues, work_queue
from shared.health import Probe
from shared.kinds.registry import Lane, is_bundled
from shared.settings import Settings

logger = logging.getLogger(__name__)


class Worker:
    """Consumes the queues of some kinds until told to stop.

    How many jobs run at once is the prefetch limit of each queue: a delivery in hand is unacked.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        kinds: Sequence[str],
        handler: DeliveryHandler,
        publisher: Publisher,
        cancellations: Cancellations,
        pauses: CurrentPauses,
        metrics: WorkerMetrics,
        name: str,
    ) -> None:
        """Make a worker that is not connected yet."""
        self._handler = handler
        self._publisher = publisher
        self._cancellations = cancellations
        self._pauses = pauses
        self._kinds = kinds
        self._held: set[str] = set()
        self._grace_seconds = settings.worker_grace_seconds
        self._subscriber = Subscriber(
            settings.amqp_url,
            name=f"{name} consume",
            subscriptions=[
                *(
                    Subscription(work_queue(kind, lane), prefetch, handler.take)
                    for kind in kinds
                    for lane, prefetch in prefetch_by_lane(settings).items()
                ),
                *(
                    Subscription(bundle_queue(kind), bundle_prefetch(settings), handler.take_bundle)
                    for kind in kinds
                    if is_bundled(kind, Lane.BULK)
                ),
            ],
            plain=settings.amqp_plain,
        )
        pauses.on_change(self._hold_paused)
        metrics.in_hand.set_function(lambda: handler.in_hand)

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
        """Work until `stop` is set, then drain: jobs in hand have the grace period to end.

        Jobs still running then are cancelled and go back to their queues.
        """
        async with asyncio.TaskGroup() as group:
            services = (self._publisher.run, self._cancellations.run, self._pauses.run, self._consume)
            connections = [group.create_task(service()) for service in services]
            await stop.wait()
            await self._drain()
            for connection in connections:
                connection.cancel()

    async def _consume(self) -> None:
        # It takes nothing before it knows what was cancelled and paused while it was not there.
        await self._cancellations.catch_up(self._publisher)
        await self._pauses.catch_up(self._publisher)
        await self._subscriber.run()

    def _hold_paused(self) -> None:
        paused = [(kind, lane) for kind in self._kinds for lane in Lane if self._pauses.cover(kind, lane)]
        held = {queue for kind, lane in paused for queue in lane_queues(kind, lane)}
        if held != self._held:
            self._held = held
            self._subscriber.hold(held)
            logger.info("queues_held", extra={"queues": sorted(held)})

    async def _drain(self) -> None:
        await self._subscriber.stop_taking()
        facts = {"in_hand": self._handler.in_hand, "grace_seconds": self._grace_seconds}
        logger.info("worker_draining", extra=facts)
        given_back = await self._handler.finish(grace_seconds=self._grace_seconds)
        await self._subscriber.flush()
        logger.info("worker_drained", extra={"given_back": given_back})


def prefetch_by_lane(settings: Settings) -> dict[Lane, int]:
    """Return how many jobs of each lane of a kind a worker has in hand."""
    return {
        Lane.INTERACTIVE: settings.worker_interactive_prefetch,
        Lane.BULK: settings.worker_bulk_prefetch,
    }


def bundle_prefetch(settings: Settings) -> int:
    """Return how many bundles of a kind a worker has in hand: about as many jobs as its bulk prefetch."""
    return max(1, settings.worker_bulk_prefetch // settings.bundle_jobs)
