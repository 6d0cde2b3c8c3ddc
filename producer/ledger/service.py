"""The ledger process: everything that works beside the API, side by side, until told to stop."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from producer.hosts import HostLimits
from producer.ledger.bulk_operations import BulkOperationRunner
from producer.ledger.dead_letters import DeadLetterWatch
from producer.ledger.figures import FigureKeeper
from producer.ledger.leader import LEADER_LEASE_SECONDS, Elector, Lease, Service
from producer.ledger.lost_jobs import LostJobReconciler
from producer.ledger.maintenance import BatchReconciler, HostKeeper, Janitor, UsageKeeper
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.parked_reconciler import PARKED_WALK, WALK_LEASE_SECONDS, ParkedReconciler
from producer.ledger.pause_publisher import PausePublisher
from producer.ledger.queue_watch import QueueWatch
from producer.ledger.recorder import Copies, InteractiveRecorder, Recorder
from producer.ledger.relay import EventRelay, InteractiveRelay, Relay
from producer.ledger.repeats import RepeatAnswerer
from producer.ledger.restarts import Restarts
from producer.ledger.scheduler import Scheduler
from producer.ledger.task_keeper import TaskKeeper
from producer.ledger.window import ReleaseWindow
from producer.run_tokens import KEY_BYTES, RunTokens
from producer.store.database import Database, RetryingStore, Store
from producer.store.hosts import HostTurns
from producer.store.leader import LEADER
from producer.store.secret_keys import RUN_TOKENS, keep_key
from producer.store.wakeup import open_wakeup
from producer.store_probe import StoreProbe
from shared.broker.publisher import Publisher
from shared.broker.topology import OUTCOMES, declare_topology
from shared.health import Probe, Reason, serve_health
from shared.kinds.registry import BROKERED_KINDS
from shared.settings import Settings
from shared.watchdog import watched

# With that of the probe 19 connections; the engine may open 20.
_RELAY_THREADS = 6
_RECORDER_THREADS = 1
# Of the relay of the interactive lane, and of its recorder.
_INTERACTIVE_THREADS = 2, 1
_SERVICE_THREADS = 8

logger = logging.getLogger(__name__)


async def run_ledger(settings: Settings, database: Database, stop: asyncio.Event) -> None:
    """Run the ledger until `stop` is set.

    Stopping at any point is safe: leases run out, and what was not acked is delivered again.

    Raises:
        StaysUnready: it stopped because it could reach broker and store and was of no use for too long.
    """
    ledger = _Ledger(settings, database)
    async with (
        serve_health(
            host=settings.health_host,
            port=settings.health_port,
            allowed_hosts=settings.health_allowed_hosts,
            probes=ledger.probes,
            registry=ledger.metrics.registry,
            reasons=ledger.reasons,
        ),
        watched(
            probes=ledger.probes,
            is_waiting=lambda: ledger.is_waiting,
            limit_seconds=settings.watchdog_seconds,
            stop=stop,
        ),
    ):
        logger.info("ledger_started", extra={"health_port": settings.health_port})
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(service()) for service in ledger.services()]
            await stop.wait()
            for service in running:
                service.cancel()
    await ledger.aclose()
    logger.info("ledger_stopped")


class _Ledger:
    """The parts of one ledger."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.metrics = LedgerMetrics()
        self._restarts = Restarts(self.metrics)
        self._settings = settings
        # Each has threads of its own, so that none waits for the slow calls of another: the relays and the
        # lease; the recorder; those of the interactive lane; the rest.
        self._store = Store(database, threads=_RELAY_THREADS)
        self._recorder_store = RetryingStore(database, threads=_RECORDER_THREADS)
        relaying, recording = _INTERACTIVE_THREADS
        self._hasty_store = Store(database.in_haste, threads=relaying)
        self._hasty_recorder_store = RetryingStore(database.in_haste, threads=recording)
        self._retrying_store = RetryingStore(database, threads=_SERVICE_THREADS)
        self._publisher = self._make_publisher("publish", declares=True)
        self._outcomes = self._make_publisher("outcomes", declares=False)
        # What a batch puts on a connection is before all that comes later.
        self._hasty_publisher = self._make_publisher("publish interactive", declares=False)
        # One for each relay: a wakeup tells one listener.
        self._wakeups = [
            open_wakeup(settings.database_url, poll_seconds=settings.relay_poll_seconds) for _ in range(3)
        ]
        # Made when the store has answered: they need its key.
        self._recorders: Sequence[Recorder] = ()
        self._relays: Sequence[Relay] = ()
        self._store_probe = StoreProbe(database)

    @property
    def probes(self) -> dict[str, Probe]:
        """What must say yes for the ledger to be ready; it need not lead."""
        return {
            "publisher": lambda: self._publisher.is_ready,
            "recorder": lambda: _all_are(recorder.is_ready for recorder in self._recorders),
            "store": lambda: self._store_probe.is_answering,
            "relay": lambda: _all_are(relay.is_moving for relay in self._relays),
        }

    @property
    def reasons(self) -> dict[str, Reason]:
        """Why a probe says no, where that is known."""
        return {
            "publisher": lambda: self._publisher.reason,
            "store": lambda: self._store_probe.reason,
        }

    @property
    def is_waiting(self) -> bool:
        """Whether the broker or the store cannot be reached."""
        return not (self._publisher.is_reachable and self._store_probe.is_answering)

    def services(self) -> Sequence[Service]:
        """Return what runs until the ledger stops."""
        return self._lasting(
            {
                "publisher": self._publisher.run,
                "outcomes": self._outcomes.run,
                "hasty_publisher": self._hasty_publisher.run,
                "store_probe": self._store_probe.run,
                "work": self._work,
            }
        )

    def _lasting(self, services: Mapping[str, Service]) -> list[Service]:
        return [self._restarts.of(name, service) for name, service in services.items()]

    async def _work(self) -> None:
        key = await self._retrying_store.write(keep_key, RUN_TOKENS, key_bytes=KEY_BYTES)
        tokens = RunTokens(key, policy=self._settings.run_tokens)
        async with asyncio.TaskGroup() as group:
            for service in self._working(tokens):
                group.create_task(service())

    def _working(self, tokens: RunTokens) -> Sequence[Service]:
        """Return what works in every ledger; one of them at a time leads, and does more."""
        store, metrics = self._retrying_store, self.metrics
        copies = Copies(most_held=self._settings.recorder_prefetch // 4)
        self._recorders = recorder, interactive_recorder = [
            sort(store=each, metrics=metrics, settings=self._settings, tokens=tokens, copies=copies)
            for sort, each in (
                (Recorder, self._recorder_store),
                (InteractiveRecorder, self._hasty_recorder_store),
            )
        ]
        window = ReleaseWindow(self._settings)
        turns = HostTurns(HostLimits.of_settings(self._settings))
        relay = Relay(
            window=window,
            turns=turns,
            leaves_interactive=True,
            store=self._store,
            publisher=self._publisher,
            wakeup=self._wakeups[0],
            metrics=metrics,
            settings=self._settings,
            tokens=tokens,
        )
        interactive_relay = InteractiveRelay(
            turns=turns,
            store=self._hasty_store,
            publisher=self._hasty_publisher,
            wakeup=self._wakeups[2],
            metrics=metrics,
            settings=self._settings,
            tokens=tokens,
        )
        self._relays = relay, interactive_relay
        event_relay = EventRelay(
            store=self._store,
            publisher=self._publisher,
            publishers={OUTCOMES: self._outcomes},
            wakeup=self._wakeups[1],
            metrics=metrics,
            settings=self._settings,
        )
        lease = Lease(self._store, LEADER, seconds=LEADER_LEASE_SECONDS)
        return self._lasting(
            {
                "recorder": partial(self._when_declared, recorder.run),
                "interactive_recorder": partial(self._when_declared, interactive_recorder.run),
                "relay": relay.run,
                "interactive_relay": partial(self._when_declared, interactive_relay.run),
                "window": window.run,
                "event_relay": event_relay.run,
                "scheduler": Scheduler(store=store, metrics=metrics).run,
                "tasks": TaskKeeper(store=store, metrics=metrics).run,
                "repeats": RepeatAnswerer(store=store, metrics=metrics).run,
                "bulk_operations": BulkOperationRunner(store=store, metrics=metrics).run,
                "pauses": PausePublisher(store=store, publisher=self._publisher).run,
                "elector": Elector(lease, self._leader_services(tokens), metrics=metrics).run,
            }
        )

    def _leader_services(self, tokens: RunTokens) -> Sequence[Service]:
        """Return what must run once."""
        settings, store, metrics = self._settings, self._retrying_store, self.metrics
        publisher = self._publisher
        watch = QueueWatch(store=store, settings=settings)
        walk_lease = Lease(store, PARKED_WALK, seconds=WALK_LEASE_SECONDS)
        lost_jobs = LostJobReconciler(
            store=store, publisher=publisher, watch=watch, metrics=metrics, settings=settings, tokens=tokens
        )
        parked = ParkedReconciler(
            store=store,
            publisher=publisher,
            lease=walk_lease,
            metrics=metrics,
            settings=settings,
            tokens=tokens,
        )
        return self._lasting(
            {
                "queue_watch": watch.run,
                "lost_jobs": lost_jobs.run,
                "parked": parked.run,
                "dead_letters": DeadLetterWatch(metrics=metrics, settings=settings).run,
                "janitor": Janitor(store=store, metrics=metrics, settings=settings).run,
                "hosts": HostKeeper(store=store, metrics=metrics).run,
                "batch_counts": BatchReconciler(store=store, metrics=metrics).run,
                "project_usage": UsageKeeper(store=store, metrics=metrics).run,
                "figures": FigureKeeper(store=store, depths=lambda: watch.depths).run,
            }
        )

    async def _when_declared(self, service: Service) -> None:
        # The publisher declares the topology when it connects.
        await self._publisher.wait_ready()
        await service()

    async def aclose(self) -> None:
        """Close what is held open."""
        for wakeup in self._wakeups:
            await wakeup.aclose()
        for store in (
            self._store,
            self._recorder_store,
            self._hasty_store,
            self._hasty_recorder_store,
            self._retrying_store,
        ):
            # Waits for calls that are under way.
            await asyncio.to_thread(store.close)
        self._store_probe.close()

    def _make_publisher(self, name: str, *, declares: bool) -> Publisher:
        return Publisher(
            self._settings.amqp_url,
            name=f"retriever ledger {name}",
            timeout_seconds=self._settings.publish_timeout_seconds,
            plain=self._settings.amqp_plain,
            prepare=(lambda channel: declare_topology(channel, BROKERED_KINDS)) if declares else None,
        )


def _all_are(each: Iterable[bool]) -> bool:
    """Return whether all are, of at least one."""
    found = list(each)
    return bool(found) and all(found)
