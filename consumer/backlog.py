"""The jobs in hand that have not begun, where a worker runs fewer at once than it holds.

Each attempt needs a slot before it asks its host for a permit. What waits for a slot is the backlog: it is
unacked, is reported as put off and not as running, and goes back when the worker stops.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from consumer.politeness.admission import Admission
from consumer.politeness.host_limiters import FirstPermit, Permit
from consumer.settlement import put_off_report
from shared.broker.publisher import Publisher
from shared.clock import utc_now
from shared.errors import BrokerError
from shared.kinds.registry import Lane, attempt_seconds
from shared.messages import JobMessage
from shared.outcomes import DeferralReason, Deferred

OVERDUE_SECONDS = 600.0
"""A job that has waited for so long is the next to run, whatever came after it."""

LONGEST_WAIT_SECONDS = 1_680.0
"""How long a job may wait and run in hand.

RabbitMQ takes a message back when it is not settled 30 minutes after it was delivered
(https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout), and looks once a minute.
"""

_SHORTEST_WAIT_SECONDS = 30.0
# A job that left its queue 20 s ago, and was not heard of since, may count as lost: docs/architecture.md.
_TELL_AFTER_SECONDS = 5.0
_TELL_AGAIN_SECONDS = 30.0
# Until when the ledger waits for a job that it was told of, and so for one of a worker that has died.
_TOLD_SECONDS = 60
# How soon a job that found no slot is back in its queue, where another worker may take it.
_BACK_SECONDS = 1.0
# What a broker delivers to a worker that had nothing comes within milliseconds, the oldest first.
_GATHER_SECONDS = 0.05
_UUID_VERSION_BY_TIME = 7
_BITS_BELOW_MILLISECONDS = 80

logger = logging.getLogger(__name__)


class Order(StrEnum):
    """Which of the jobs in hand runs next."""

    OLDEST = "oldest"
    NEWEST = "newest"


Tell = Callable[[JobMessage, Deferred], None]


@dataclass(eq=False, slots=True)
class Waiting:
    """A job that waits for a slot; the lowest rank is the next, unless another is overdue."""

    job: JobMessage
    rank: tuple[bool, int]
    since: float
    tell_at: float
    answer: asyncio.Future[Deferred | None]
    has_slot: bool = field(default=False)


class Backlog:
    """Jobs in hand that have not begun, in the order in which they shall. Pure: it is told the time."""

    def __init__(self) -> None:
        """Begin with none."""
        # In the order in which they came.
        self._waiting: dict[Waiting, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(tuple(self._waiting))

    def add(self, waiting: Waiting) -> None:
        """Note a job that waits from now on."""
        self._waiting[waiting] = None

    def discard(self, waiting: Waiting) -> None:
        """Forget a job, if it is there."""
        self._waiting.pop(waiting, None)

    def take(self, now: float) -> Waiting | None:
        """Take out the job that runs next: an overdue one, else one of the interactive lane, in the order."""
        if not self._waiting:
            return None
        chosen = next(iter(self._waiting))
        if now - chosen.since < OVERDUE_SECONDS:
            chosen = min(self._waiting, key=lambda waiting: waiting.rank)
        del self._waiting[chosen]
        return chosen


def rank(job: JobMessage, order: Order, *, came_at_seconds: float) -> tuple[bool, int]:
    """Return by what a job is sorted: its lane, and when it was created as far as its id says.

    The ids of the ledger do. A stranger's may not; its job then counts as created when it came.
    """
    if job.id.version == _UUID_VERSION_BY_TIME:
        created = job.id.int
    else:
        created = int(came_at_seconds * 1_000) << _BITS_BELOW_MILLISECONDS
    return job.lane is not Lane.INTERACTIVE, -created if order is Order.NEWEST else created


def wait_limit_seconds(job: JobMessage) -> float:
    """Return how long a job may wait in hand, so that its attempt ends before the broker takes it back."""
    return max(LONGEST_WAIT_SECONDS - attempt_seconds(job.kind, job.args), _SHORTEST_WAIT_SECONDS)


class Slots:
    """Lets so many attempts run at once; the others wait, and are deferred when that takes too long."""

    def __init__(
        self,
        limit: int,
        *,
        order: Order = Order.OLDEST,
        max_wait_seconds: float = LONGEST_WAIT_SECONDS,
        is_paused: Callable[[str, Lane], bool] = lambda *_: False,
        tell: Tell = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make some.

        Args:
            limit: How many attempts run at once.
            max_wait_seconds: A job that has waited for so long goes back, so that another worker may take it.
            is_paused: Whether the jobs of a kind and lane shall not begin now.
            tell: Called for each job that waits for some seconds, and again while it does.
        """
        self._limit = limit
        self._order = order
        self._max_wait_seconds = max_wait_seconds
        self._is_paused = is_paused
        self._tell = tell
        self._clock = clock
        self._running = 0
        self._backlog = Backlog()
        self._gathering: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None
        self._is_shut = False

    @property
    def waiting(self) -> int:
        """How many jobs wait for a slot."""
        return len(self._backlog)

    async def wait(self, job: JobMessage) -> Waiting | Deferred:
        """Return once the job has a slot, which it has until `end`; or that it is deferred.

        Raises:
            CancelledError: the worker stops; or the waiting task was cancelled.
        """
        if self._is_shut:
            # What comes now is given back as all that waits is, by whoever handles a cancelled delivery.
            raise asyncio.CancelledError
        if self._is_paused(job.kind, job.lane):
            return _paused(job)
        waiting = self._add(job)
        self._begin_soon()
        limit_seconds = min(self._max_wait_seconds, wait_limit_seconds(job))
        try:
            async with asyncio.timeout(limit_seconds):
                deferred = await waiting.answer
        except TimeoutError:
            deferred = self._too_long(limit_seconds)
        except asyncio.CancelledError:
            self.end(waiting)
            raise
        if deferred is None:
            return waiting
        self.end(waiting)
        return deferred

    def end(self, waiting: Waiting) -> None:
        """Let the next begin; a job that has no slot leaves the backlog."""
        self._backlog.discard(waiting)
        if waiting.has_slot:
            waiting.has_slot = False
            self._running -= 1
            self._begin()

    def put_back_paused(self) -> None:
        """Defer the waiting jobs of queues that are paused: they wait there until somebody goes on."""
        for waiting in self._backlog:
            if self._is_paused(waiting.job.kind, waiting.job.lane):
                self._backlog.discard(waiting)
                waiting.answer.set_result(_paused(waiting.job))

    def shut(self) -> None:
        """Cancel all that waits, and whatever comes: the worker stops, and each is given back."""
        self._is_shut = True
        for timer in (self._gathering, self._telling):
            if timer is not None:
                timer.cancel()
        for waiting in self._backlog:
            self._backlog.discard(waiting)
            waiting.answer.cancel()

    def _add(self, job: JobMessage) -> Waiting:
        loop, now = asyncio.get_running_loop(), self._clock()
        by_rank = rank(job, self._order, came_at_seconds=utc_now().timestamp())
        waiting = Waiting(job, by_rank, now, now + _TELL_AFTER_SECONDS, loop.create_future())
        self._backlog.add(waiting)
        if self._telling is None:
            self._telling = loop.call_later(_TELL_AFTER_SECONDS, self._tell_due, loop)
        return waiting

    def _tell_due(self, loop: asyncio.AbstractEventLoop) -> None:
        now, self._telling = self._clock(), None
        for waiting in self._backlog:
            if waiting.tell_at <= now:
                waiting.tell_at = now + _TELL_AGAIN_SECONDS
                self._tell(waiting.job, self._put_off())
        if self._backlog:
            self._telling = loop.call_later(_TELL_AFTER_SECONDS, self._tell_due, loop)

    def _put_off(self) -> Deferred:
        said = f"In a worker's hand that runs {self._limit} at once, and waits there for the end of another."
        return Deferred(_TOLD_SECONDS, DeferralReason.WORKER_BUSY, said)

    def _begin_soon(self) -> None:
        if self._order is not Order.NEWEST or self._running:
            self._begin()
        elif self._gathering is None:
            # Else a worker that had nothing would begin with the oldest.
            loop = asyncio.get_running_loop()
            self._gathering = loop.call_later(_GATHER_SECONDS, self._begin_gathered)

    def _begin_gathered(self) -> None:
        self._gathering = None
        self._begin()

    def _begin(self) -> None:
        now = self._clock()
        while self._running < self._limit and (waiting := self._backlog.take(now)) is not None:
            # One whose task was cancelled, and has not run since, needs no slot.
            if not waiting.answer.done():
                self._running += 1
                waiting.has_slot = True
                waiting.answer.set_result(None)

    def _too_long(self, seconds: float) -> Deferred:
        said = (
            f"Put back into its queue, because the worker that had it runs {self._limit} at once and had no "
            f"slot for it within {seconds:.0f} s."
        )
        return Deferred(_BACK_SECONDS, DeferralReason.WORKER_BUSY, said)


class SlotAdmission:
    """Admits attempts of some kinds when they have a slot; then their host's permit is asked for."""

    def __init__(self, admission: Admission, slots_by_kind: Mapping[str, Slots]) -> None:
        """Make one; kinds without slots are admitted at once."""
        self._admission = admission
        self._slots_by_kind = slots_by_kind

    async def admit(self, job: JobMessage, *, address: str | None = None) -> FirstPermit | Deferred:
        """Return the permits to hold during the attempt, maybe after long; or that it is deferred.

        Args:
            address: As of `Admission.admit`.
        """
        slots = self._slots_by_kind.get(job.kind)
        if slots is None:
            return await self._admission.admit(job, address=address)
        waiting = await slots.wait(job)
        if isinstance(waiting, Deferred):
            return waiting
        permit: FirstPermit | Deferred | None = None
        try:
            permit = await self._admission.admit(job, address=address)
        finally:
            if not isinstance(permit, FirstPermit):
                slots.end(waiting)
        return permit if isinstance(permit, Deferred) else _SlotPermit(permit, slots, waiting)


class _SlotPermit(FirstPermit):
    """The permit of an attempt, and its slot, which both end with it."""

    __slots__ = ("_first", "_slots", "_waiting")

    has_waited = True

    def __init__(self, first: FirstPermit, slots: Slots, waiting: Waiting) -> None:
        super().__init__(max_wait_seconds=first.max_wait_seconds, request=first.request)
        self._first = first
        self._slots = slots
        self._waiting = waiting

    def take(self, host: str) -> Permit | None:
        return self._first.take(host)

    def take_address(self) -> Permit | None:
        return self._first.take_address()

    def __exit__(self, *args: object) -> None:
        self._first.__exit__(*args)
        self._slots.end(self._waiting)


def _paused(job: JobMessage) -> Deferred:
    said = f"Put back into its queue, because {job.kind} is paused in lane {job.lane}."
    return Deferred(_BACK_SECONDS, DeferralReason.QUEUE_PAUSED, said)


class PutOffs:
    """Tells the recorder of jobs that wait in hand, if the broker takes that: they are not lost."""

    def __init__(self, publisher: Publisher, *, worker: str) -> None:
        """Make one; `worker` is the name that reports carry."""
        self._publisher = publisher
        self._worker = worker

    def tell(self, job: JobMessage, put_off: Deferred) -> None:
        """Publish a report that the job does not begin yet."""
        try:
            sending = self._publisher.send(put_off_report(job, put_off, worker=self._worker))
        except BrokerError as error:
            logger.debug("put_off_report_failed", extra={"job_id": str(job.id), "error": str(error)})
        else:
            sending.add_done_callback(_note_sent)


def _note_sent(sending: asyncio.Future[None]) -> None:
    if not sending.cancelled() and (error := sending.exception()):
        logger.debug("put_off_report_failed", extra={"error": str(error)})
