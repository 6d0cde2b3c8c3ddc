"""Orders to workers, read from streams: what is cancelled, and which queues are paused."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from itertools import cycle
from typing import Generic, TypeVar
from uuid import UUID, uuid4

from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.stream import StreamReader
from shared.broker.topology import CANCELLED_STREAM, DEFAULT, MARKS, PAUSED_STREAM
from shared.errors import BrokerError, MessageUndecodable
from shared.events import EVERY, PAUSES_TYPE, Cancellation, EventType, PausedQueues, PauseSnapshot
from shared.kinds.registry import Lane
from shared.messages import JobMessage

_BARRIER_AGAIN_SECONDS = 1.0
_BARRIER_SECONDS = 10.0
# Some 200 bytes each. The oldest are forgotten first; their messages are long gone.
_CANCELLATIONS_KEPT = 200_000

logger = logging.getLogger(__name__)

V = TypeVar("V")
Order = TypeVar("Order", Cancellation, PauseSnapshot)


class ControlStream(Generic[Order]):
    """Reads one stream of orders from its start, and again after each loss; orders must be idempotent.

    It ends catching up with a barrier: a message of its own at the end of the stream. Once it has read that,
    it has read all that came before. Barriers have an exchange of their own, so that the login of a worker
    need not reach any queue there is, and gives no orders.
    """

    def __init__(self, url: str, *, name: str, stream: str, message_type: str, order: type[Order]) -> None:
        """Make a reader that has read nothing yet."""
        self._reader = StreamReader(url, name=name, stream=stream, take=self.take)
        self._stream = stream
        self._message_type = message_type
        self._order: type[Order] = order
        self._barrier_id = uuid4()
        self._barrier_read = asyncio.Event()

    @property
    def is_caught_up(self) -> bool:
        """Whether every order from before this worker started is known."""
        return self._barrier_read.is_set()

    @property
    def is_well(self) -> bool:
        """Whether orders from before the start are known, and new ones are known to arrive."""
        return self.is_caught_up and self._reader.is_well

    async def run(self) -> None:
        """Read until cancelled."""
        await self._reader.run()

    async def catch_up(self, publisher: Publisher) -> None:
        """Publish the barrier, and return once it was read: every order from before now is known."""
        body = self._order(marker=self._barrier_id).encode()
        # A ledger of the version before has not declared the exchange, and a login of before may not use it.
        exchanges = cycle((MARKS, DEFAULT))
        while not self.is_caught_up:
            try:
                await publisher.publish(Outgoing(next(exchanges), self._stream, body, self._message_type))
                # A long stream takes its time; one that was made anew has lost the barrier. Any copy will do.
                async with asyncio.timeout(_BARRIER_SECONDS):
                    await self._barrier_read.wait()
            except TimeoutError:
                logger.info("barrier_not_read", extra={"stream": self._stream})
            except BrokerError as error:
                logger.debug("barrier_failed", extra={"stream": self._stream, "error": str(error)})
                await asyncio.sleep(_BARRIER_AGAIN_SECONDS)

    def take(self, body: bytes, exchange: str = DEFAULT) -> None:
        """Take a message of the stream, which came through an exchange."""
        try:
            order = self._order.decode(body)
        except MessageUndecodable as error:
            # `cancellation_undecodable` or `pauses_undecodable`.
            logger.warning("%s_undecodable", self._message_type, extra={"error": str(error)})
            return
        if order.marker == self._barrier_id:
            self._barrier_read.set()
        if exchange != MARKS:
            self._obey(order)

    def _obey(self, order: Order) -> None:
        raise NotImplementedError


class Cancellations(ControlStream[Cancellation]):
    """Knows which jobs and batches were cancelled."""

    def __init__(self, url: str, *, name: str) -> None:
        """Make a reader that has read nothing yet."""
        super().__init__(
            url,
            name=name,
            stream=CANCELLED_STREAM,
            message_type=EventType.CANCELLATION.value,
            order=Cancellation,
        )
        self._runs_by_job: OrderedDict[UUID, int] = OrderedDict()
        self._batches: OrderedDict[UUID, None] = OrderedDict()
        self._tell: Callable[[], None] = lambda: None

    def on_new(self, tell: Callable[[], None]) -> None:
        """Call `tell`, which must not block, after each new cancellation from now on."""
        self._tell = tell

    def has(self, job: JobMessage) -> bool:
        """Return whether the run of the job, or its batch, was cancelled."""
        # Most often there is none; a UUID is hashed in Python.
        return bool(self._runs_by_job and self._runs_by_job.get(job.id, 0) >= job.run) or bool(
            self._batches and job.batch_id in self._batches and _came_with_batch(job)
        )

    def _obey(self, order: Cancellation) -> None:
        # The whole stream is read again after each loss: what is known already cancels nothing.
        is_new = False
        if order.job_id is not None:
            known_run = self._runs_by_job.get(order.job_id, 0)
            run = max(known_run, order.run or 1)
            _remember(self._runs_by_job, order.job_id, run)
            is_new = run > known_run
        if order.batch_id is not None:
            is_new = is_new or order.batch_id not in self._batches
            _remember(self._batches, order.batch_id, None)
        if is_new:
            self._tell()


class CurrentPauses(ControlStream[PauseSnapshot]):
    """Knows which queues are paused, from the latest snapshot; late and repeated ones change nothing."""

    def __init__(self, url: str, *, name: str) -> None:
        """Make a reader that has read nothing yet: nothing is paused."""
        super().__init__(url, name=name, stream=PAUSED_STREAM, message_type=PAUSES_TYPE, order=PauseSnapshot)
        self._revision = -1
        self._pauses: tuple[PausedQueues, ...] = ()
        self._tell: Callable[[], None] = lambda: None

    def on_change(self, tell: Callable[[], None]) -> None:
        """Call `tell`, which must not block, after each change from now on."""
        self._tell = tell

    def cover(self, kind: str, lane: Lane) -> bool:
        """Return whether a kind is paused in a lane."""
        return any(pause.kind in {kind, EVERY} and pause.lane in {lane, EVERY} for pause in self._pauses)

    def _obey(self, order: PauseSnapshot) -> None:
        if order.revision is None or order.revision <= self._revision:
            return
        self._revision, self._pauses = order.revision, order.pauses
        self._tell()


def _came_with_batch(job: JobMessage) -> bool:
    """Return whether what tells of the batch means this run; of others a job's own cancellation tells.

    Later runs were redriven, maybe after the batch was cancelled, and pages join their batch one by one.
    """
    return job.run == 1 and "page" not in job.args


def _remember(kept: OrderedDict[UUID, V], key: UUID, value: V) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _CANCELLATIONS_KEPT:
        kept.popitem(last=False)
