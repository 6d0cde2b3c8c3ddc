"""A whole service in one process: the real parts on a model of the broker, and what really happened.

The store, the relays, the recorder, the lost-job reconciler and the workers' delivery handlers are those that
run in production. The clock stands still until a test lets time pass.
"""

import asyncio
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, cast
from uuid import UUID

import pytest
from pydantic import BaseModel

from consumer.control_streams import Cancellations
from consumer.delivery_handler import DeliveryHandler
from consumer.executor import Executor
from consumer.metrics import WorkerMetrics
from consumer.politeness.host_limiters import NO_PERMIT, FirstPermit
from producer.ledger.lost_jobs import LostJobReconciler, Republisher
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.queue_watch import QueueWatch
from producer.ledger.recorder import Recorder
from producer.ledger.recovery import _send_all, chosen_queues
from producer.ledger.relay import EventRelay, Relay
from producer.ledger.repeats import RepeatAnswerer
from producer.run_tokens import KEY_BYTES, RunTokens
from producer.store.database import Database, RetryingStore
from producer.store.wakeup import Wakeup
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import (
    CANCELLED_STREAM,
    LARGE_RESULTS_QUEUE,
    RECORDER_QUEUE,
    QueueDepth,
    bundle_queue,
    lane_queues,
)
from shared.errors import BrokerError, BrokerUnavailable
from shared.kinds.registry import Lane
from shared.messages import JobMessage
from shared.outcomes import Deferred, Outcome
from shared.settings import Settings
from tests.support.factories import NOON
from tests.support.model_broker import Channel, ModelBroker
from tests.support.virtual_time import VirtualTimeLoop

LOST_AFTER_SECONDS = 40.0
LOOK_SECONDS = 10.0
_TURNS = 25
_KINDS = ("check", "webhook")
_WORK_QUEUES = sorted({name for kind in _KINDS for lane in Lane for name in lane_queues(kind, lane)})
_BUNDLE_QUEUES = {bundle_queue(kind) for kind in _KINDS}

AttemptName = tuple[UUID, int, int]


class Publishing(Enum):
    """What becomes of the next messages that a process publishes."""

    CONFIRMED = auto()
    """The broker has it, and says so."""
    UNCONFIRMED = auto()
    """The broker has it, and the process does not hear of that: it publishes once more."""
    NEVER_SENT = auto()
    """The broker does not have it: the process publishes it once more."""
    LAST_WORDS = auto()
    """The broker has it, and the process dies before it hears of that."""


class ModelStore(RetryingStore):
    """The store for coroutines, called at once and not in a thread."""

    changes = 0
    """How many calls there were."""

    async def _call(self, call: Callable[[], Any]) -> Any:
        self.changes += 1
        return call()


class ModelPublisher:
    """Publishes to the model; how the next message fares is for the test to say."""

    def __init__(self, broker: ModelBroker, die: Callable[[], None] = lambda: None) -> None:
        """Make a publisher of a process that `die` ends."""
        self.next = Publishing.CONFIRMED
        self.is_dead = False
        self._broker = broker
        self._die = die

    def send(self, message: Outgoing) -> asyncio.Future[None]:
        """Publish a message, as `Publisher.send` does."""
        answer = asyncio.get_running_loop().create_future()
        fate, self.next = self.next, Publishing.CONFIRMED
        if self.is_dead:
            return answer
        try:
            if fate is not Publishing.NEVER_SENT:
                self._broker.publish(message)
        except BrokerError as error:
            answer.set_exception(error)
            return answer
        match fate:
            case Publishing.CONFIRMED:
                answer.set_result(None)
            case Publishing.LAST_WORDS:
                self._die()
            case _:
                answer.set_exception(BrokerUnavailable("no confirm came"))
        return answer

    async def publish(self, message: Outgoing) -> None:
        """Publish a message, as `Publisher.publish` does."""
        await self.send(message)

    def reset(self) -> None:
        """Declare the topology again: the model never loses it."""


@dataclass(eq=False)
class Start:
    """A start of an attempt by one worker; `outcome` stays None while it runs, and if it was stopped."""

    name: AttemptName
    worker: str
    may_end: asyncio.Future[Outcome]
    outcome: Outcome | None = None


@dataclass
class Truth:
    """What really happened, as the handlers and the operators saw it."""

    starts: defaultdict[AttemptName, list[Start]] = field(default_factory=lambda: defaultdict(list))
    cancelled_runs: set[tuple[UUID, int]] = field(default_factory=set)
    discarded_jobs: set[UUID] = field(default_factory=set)


class ModelWorker:
    """A worker: a real delivery handler whose handler of jobs does what the test says, when it says."""

    def __init__(self, broker: ModelBroker, truth: Truth, *, number: int) -> None:
        """Start the first process of a worker."""
        self._broker = broker
        self._truth = truth
        self._number = number
        self._processes = 0
        self.running: list[Start] = []
        self.deferral: Deferred | None = None
        self.start()

    def start(self) -> None:
        """Start a process, which reads what is cancelled before it takes its first delivery."""
        self._processes += 1
        self.name = f"worker {self._number}, process {self._processes}"
        self.publisher = ModelPublisher(self._broker, self.die)
        self._cancellations = Cancellations("amqp://nowhere/", name=self.name)
        self._orders_read = 0
        self.read_orders()
        self._channel = Channel(self._broker)
        self._handler = DeliveryHandler(
            executor=Executor(dict.fromkeys(_KINDS, self._work)),
            admission=self,  # type: ignore[arg-type]
            publisher=self.publisher,  # type: ignore[arg-type]
            cancellations=self._cancellations,
            metrics=WorkerMetrics(),
            worker=self.name,
        )

    def read_orders(self) -> None:
        """Read the stream of cancellations to its end."""
        orders = self._broker.streams[CANCELLED_STREAM]
        for order in orders[self._orders_read :]:
            self._cancellations.take(order)
        self._orders_read = len(orders)

    async def take(self, queue: str, index: int = 0) -> None:
        """Take a message of a work queue, as its consumer does."""
        delivery = self._channel.deliver(queue, index)
        take = self._handler.take_bundle if queue in _BUNDLE_QUEUES else self._handler.take
        take(delivery)

    def lose_connection(self) -> None:
        """Lose all that is not acked to the broker, and go on: what is settled from now on, is not acked."""
        self._channel.lose()
        self._channel = Channel(self._broker)

    def die(self) -> None:
        """End the process at once, by a kill, and start another."""
        self.publisher.is_dead = True
        self._channel.lose()
        for task in list(self._handler._tasks._tasks):
            task.cancel()
        self.running.clear()
        self.start()

    async def admit(self, _: JobMessage, *, address: str | None = None) -> FirstPermit | Deferred:
        """Let an attempt begin, or put it off, as `Admission` does."""
        deferral, self.deferral = self.deferral, None
        return deferral or NO_PERMIT

    async def _work(self, _: BaseModel, job: JobMessage, __: FirstPermit) -> Outcome:
        name = job.id, job.run, job.attempt
        start = Start(name, self.name, asyncio.get_running_loop().create_future())
        self._truth.starts[name].append(start)
        self.running.append(start)
        try:
            start.outcome = await start.may_end
        finally:
            if start in self.running:
                self.running.remove(start)
        return start.outcome


class ModelService:
    """Two workers, one ledger, one store and the model of a broker."""

    def __init__(self, database: Database, loop: VirtualTimeLoop) -> None:
        """Start everything."""
        self.database = database
        self.broker = ModelBroker()
        self.truth = Truth()
        self._loop = loop
        self._store = ModelStore(database)
        self.metrics = LedgerMetrics()
        self._tokens = RunTokens(b"k" * KEY_BYTES)
        self._settings = Settings(
            bundle_jobs=3, lost_after_seconds=LOST_AFTER_SECONDS, relay_lease_seconds=30.0
        )
        self._publisher = ModelPublisher(self.broker)
        self.workers = [ModelWorker(self.broker, self.truth, number=number) for number in (1, 2)]
        self._make_ledger()

    @property
    def now(self) -> datetime:
        """The wall clock of every process."""
        return NOON + timedelta(seconds=self.broker.seconds)

    def write(self, change: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Change the store, as the API or a ledger does."""
        self._store.changes += 1
        return self.database.write(change, *args, **kwargs)

    def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do work of several transactions on the store."""
        self._store.changes += 1
        return work(self.database, *args, **kwargs)

    @property
    def changes(self) -> int:
        """How often the store was called; while it stays, nothing in the store has changed."""
        return self._store.changes

    def promise(self) -> "asyncio.Future[Outcome]":
        """Return what nobody waits for."""
        return self._loop.create_future()

    def relay(self, fate: Publishing) -> None:
        """Publish what waits in the store: jobs, then events."""
        for relay in (self._relay, self._event_relay):
            dies = fate is Publishing.LAST_WORDS
            self._publisher.next = Publishing.CONFIRMED if dies else fate
            self.do(self._send(relay, dies=dies))
        self._publisher.next = Publishing.CONFIRMED

    def record(self, *, most: int, is_connection_lost: bool) -> None:
        """Record what workers reported, and maybe lose the acks."""
        channel = Channel(self.broker)
        deliveries = [
            channel.deliver(queue)
            for queue in (RECORDER_QUEUE, LARGE_RESULTS_QUEUE)
            for _ in range(min(most, len(self.broker.queues[queue])))
        ]
        if is_connection_lost:
            channel.lose()
        if deliveries:
            self.do(self._recorder._record_batch(deliveries))

    def answer_repeats(self) -> None:
        """Give a page of repeats the answer of their original, if that has ended."""
        self.do(self._answerer.tick())

    def republish(self) -> None:
        """Send every unfinished job again: `python -m producer republish`."""
        republisher = Republisher(
            store=self._store,
            publisher=cast("Publisher", self._publisher),
            metrics=self.metrics,
            settings=self._settings,
            tokens=self._tokens,
            why="command",
        )
        self.do(_send_all(self._store, republisher, chosen_queues(None, None), Counter()))

    def pass_time(self, seconds: float) -> None:
        """Let time pass for everybody, and look at the queues now and then."""
        while seconds > 0:
            step = min(seconds, LOOK_SECONDS)
            self.broker.pass_time(step)
            self._loop.seconds += step
            self._watch.note(QueueDepth(name, ready, 1) for name, ready in self.broker.ready().items())
            self.do(self._reconciler.check())
            seconds -= step

    def do(self, work: Coroutine[Any, Any, Any] | None = None) -> None:
        """Let everything run that need not wait, for time or for the test."""
        self._loop.run_until_complete(_turn(work))

    def put_aside(self) -> float:
        """Return how many reports the recorder could not read, believe or write."""
        families = self.metrics.reports_put_aside.collect()
        return sum(
            sample.value for family in families for sample in family.samples if sample.name.endswith("_total")
        )

    def waiting(self) -> list[str]:
        """Return the work queues that have messages."""
        return [name for name in _WORK_QUEUES if self.broker.queues[name]]

    def close(self) -> None:
        """Stop everything."""
        for worker in self.workers:
            worker.die()
        self.do()
        self.database.close()

    def _make_ledger(self) -> None:
        def clock() -> float:
            return self.broker.seconds

        everywhere: dict[str, Any] = {
            "store": self._store,
            "metrics": self.metrics,
            "settings": self._settings,
            "tokens": self._tokens,
        }
        publishing = {**everywhere, "publisher": self._publisher}
        self._relay = Relay(**publishing, wakeup=cast("Wakeup", None))
        del publishing["tokens"]
        self._event_relay = EventRelay(**publishing, wakeup=cast("Wakeup", None))
        self._recorder = Recorder(**everywhere)
        self._answerer = RepeatAnswerer(store=self._store, metrics=self.metrics)
        self._watch = QueueWatch(
            store=self._store, settings=self._settings, clock=clock, wall_clock=lambda: self.now
        )
        self._reconciler = LostJobReconciler(
            **everywhere, publisher=cast("Publisher", self._publisher), watch=self._watch, clock=clock
        )

    async def _send(self, relay: Relay | EventRelay, *, dies: bool) -> None:
        rows = await relay._claim(100, self._settings.relay_lease_seconds, now=self.now)
        if not dies:
            await relay._send_page(rows)  # type: ignore[arg-type]
            return
        # Published, and not noted: the lease runs out.
        for message, _ in relay._pack(rows):  # type: ignore[arg-type]
            self.broker.publish(message)


def stop_clocks(monkeypatch: pytest.MonkeyPatch, now: Callable[[], datetime]) -> None:
    """Let every module of ours that asks for the time ask `now`."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("producer.", "consumer.", "shared.")) and hasattr(module, "utc_now"):
            monkeypatch.setattr(module, "utc_now", now)


async def _turn(work: Coroutine[Any, Any, Any] | None) -> None:
    if work is not None:
        await work
    for _ in range(_TURNS):
        await asyncio.sleep(0)
