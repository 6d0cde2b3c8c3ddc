"""The ledger process: everything that works beside the API, side by side, until told to stop."""

import asyncio
import logging
from collections.abc import Callable, Coroutine

from producer.ledger.announcer import Announcer
from producer.ledger.batch_counts import BatchReconciler
from producer.ledger.dead_letters import DeadLetterWatch
from producer.ledger.declarer import Declarer
from producer.ledger.janitor import Janitor
from producer.ledger.lost_jobs import LostJobReconciler
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.observer import Observer
from producer.ledger.operations import OperationRunner
from producer.ledger.pauser import Pauser
from producer.ledger.reconciler import ParkedReconciler
from producer.ledger.recorder import Recorder
from producer.ledger.redrives import RedriveSweeper
from producer.ledger.relay import Relay
from producer.ledger.scheduler import Scheduler
from producer.ledger.turns import Turns
from producer.store.database import Database
from producer.store.wakeup import open_wakeup
from producer.store_probe import StoreProbe
from shared.broker.publisher import Publisher
from shared.broker.topology import declare_topology
from shared.health import Probe, serve_health
from shared.kinds.registry import KINDS
from shared.settings import Settings
from shared.watchdog import watched

logger = logging.getLogger(__name__)


async def run_ledger(settings: Settings, store: Database, stop: asyncio.Event) -> None:
    """Run the ledger until `stop` is set.

    Stopping at any point is safe: leases run out, and what was not acked is delivered again.

    Raises:
        StaysUnready: it stopped because it could reach broker and store and was of no use for too long.
    """
    metrics = LedgerMetrics()
    publisher = Publisher(
        settings.amqp_url,
        name="retriever ledger publish",
        timeout_seconds=settings.publish_timeout_seconds,
        plain=settings.amqp_plain,
        prepare=lambda channel: declare_topology(channel, KINDS),
    )
    outcomes = Publisher(
        settings.amqp_url,
        name="retriever ledger outcomes",
        timeout_seconds=settings.publish_timeout_seconds,
        plain=settings.amqp_plain,
    )
    recorder = Recorder(store=store, metrics=metrics, settings=settings)
    # One for each: a wakeup tells one listener.
    wakeups = [open_wakeup(settings.database_url, poll_seconds=settings.relay_poll_seconds) for _ in range(2)]
    relay = Relay(store=store, publisher=publisher, wakeup=wakeups[0], metrics=metrics, settings=settings)
    announcer = Announcer(
        store=store,
        publisher=publisher,
        outcomes=outcomes,
        wakeup=wakeups[1],
        metrics=metrics,
        settings=settings,
    )
    scheduler = Scheduler(store=store, metrics=metrics)
    # Three looks: a ledger that dies is followed by another before what it saw is old.
    turns = Turns(store, "observer", lease_seconds=15)
    observer = Observer(store=store, turns=turns, settings=settings)
    # As the observer's.
    declarer = Declarer(turns=Turns(store, "declarer", lease_seconds=15), settings=settings)
    pauser = Pauser(store=store, publisher=publisher)
    lost = LostJobReconciler(
        store=store,
        publisher=publisher,
        turns=Turns(store, "lost_jobs"),
        metrics=metrics,
        settings=settings,
    )
    watch = DeadLetterWatch(turns=Turns(store, "dead_letters"), metrics=metrics, settings=settings)
    parked = _parked_services(settings, store, publisher, metrics)
    store_probe = StoreProbe(store)
    probes: dict[str, Probe] = {
        "publisher": lambda: publisher.is_ready,
        "recorder": lambda: recorder.is_ready,
        "store": lambda: store_probe.is_answering,
        "relay": lambda: relay.is_moving,
    }
    async with (
        serve_health(
            host=settings.health_host, port=settings.health_port, probes=probes, registry=metrics.registry
        ),
        watched(
            probes=probes,
            is_waiting=lambda: not (publisher.is_reachable and store_probe.is_answering),
            limit_seconds=settings.watchdog_seconds,
            stop=stop,
        ),
    ):
        logger.info("ledger_started", extra={"health_port": settings.health_port})

        async def record() -> None:
            # The publisher declares the topology when it connects.
            await publisher.wait_ready()
            await recorder.run()

        async with asyncio.TaskGroup() as group:
            services = [
                group.create_task(service())
                for service in (
                    publisher.run,
                    outcomes.run,
                    store_probe.run,
                    record,
                    relay.run,
                    announcer.run,
                    scheduler.run,
                    observer.run,
                    declarer.run,
                    pauser.run,
                    lost.run,
                    watch.run,
                    *parked,
                )
            ]
            await stop.wait()
            for service in services:
                service.cancel()
    for wakeup in wakeups:
        await wakeup.aclose()
    logger.info("ledger_stopped")


def _parked_services(
    settings: Settings, store: Database, publisher: Publisher, metrics: LedgerMetrics
) -> list[Callable[[], Coroutine[None, None, None]]]:
    """Return what keeps the parking lot and the store tidy."""
    runner = OperationRunner(store=store, metrics=metrics)
    # Both walk the parking queue, so they take turns, with each other and with those of other ledgers.
    sweeper = RedriveSweeper(
        store=store, turns=Turns(store, "parked_walk"), metrics=metrics, settings=settings
    )
    reconciler = ParkedReconciler(
        store=store,
        publisher=publisher,
        turns=Turns(store, "parked_walk"),
        metrics=metrics,
        settings=settings,
    )
    janitor = Janitor(store=store, turns=Turns(store, "janitor"), metrics=metrics, settings=settings)
    batches = BatchReconciler(store=store, turns=Turns(store, "batch_counts"), metrics=metrics)
    return [runner.run, sweeper.run, reconciler.run, janitor.run, batches.run]
