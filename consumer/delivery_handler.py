"""One delivery in hand: read it, run its attempt, settle it. The worker's part of a job's life."""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Coroutine
from contextlib import AbstractContextManager, suppress
from datetime import datetime

from consumer.backlog import SlotAdmission
from consumer.control_streams import Cancellations
from consumer.executor import Attempt, Executor
from consumer.metrics import WorkerMetrics
from consumer.poison import quarantine
from consumer.politeness.admission import Admission
from consumer.politeness.host_limiter import SHORTEST_DEFERRAL_SECONDS
from consumer.report_batcher import ReportBatcher
from consumer.running_attempts import RunningAttempt, RunningAttempts
from consumer.settlement import (
    Decision,
    Park,
    decide,
    publish_until_confirmed,
    redrive_request,
    settlement_message,
)
from shared.broker.bundle import Bundle, Part, count_bodies
from shared.broker.delivery import Delivery
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import DEAD, RESULTS, RETURN, is_bundle_key, may_carry
from shared.clock import utc_now
from shared.encryption import EncryptionKeys
from shared.errors import DeliveryLost, MessageTooLarge, MessageUndecodable, SecretUnreadable
from shared.log_lines import printable
from shared.messages import MAX_DEFERRALS, RAW_TYPE, REASON_HEADER, JobMessage
from shared.outcomes import TOO_LARGE, Cancelled, DeferralReason, Deferred, Failed, outcome_name
from shared.settings import MAX_BUNDLE_JOBS
from shared.veiled_args import unveiled, veiled

# How long a settlement under way may hold up a worker that has to stop.
_SETTLE_LIMIT_SECONDS = 10.0
# How often in a row an attempt may find an address busy. A second time is rare: a connection to another one.
_MOST_GIVEN_BACK = 4
# The ledger gives times that are nearer. A clock that differs from its own must not hold up a job.
_LONGEST_AHEAD_SECONDS = 1.0
_ROUNDS = tuple(reversed(range(_MOST_GIVEN_BACK)))
# About as many as one connection can have unacked, several times over; 100 bytes each.
_SETTLED_KEPT = 10_000

AttemptKey = tuple[int, int, int, int, str | None]

logger = logging.getLogger(__name__)


class DeliveryHandler:
    """Handles the deliveries of one worker."""

    def __init__(
        self,
        *,
        executor: Executor,
        admission: Admission | SlotAdmission,
        publisher: Publisher,
        reports: ReportBatcher | None = None,
        cancellations: Cancellations,
        metrics: WorkerMetrics,
        worker: str,
        keys: EncryptionKeys | None = None,
    ) -> None:
        """Make a handler.

        Args:
            keys: Hide what is secret of the arguments of parked jobs.
            reports: Publishes several in one message; None publishes each by itself.
            worker: The name that reports carry.
        """
        self._executor = executor
        self._admission = admission
        self._publisher = publisher
        self._reports = reports or publisher
        self._cancellations = cancellations
        self._metrics = metrics
        self._worker = worker
        self._keys = keys or EncryptionKeys()
        self._running = RunningAttempts(publisher, cancellations, worker=worker)
        self._dedupe = AttemptDedupe()
        self._tasks = DeliveryTasks()

    def take(self, delivery: Delivery) -> None:
        """Run and settle one delivery, in a task of its own.

        A bug of ours counts as a delivery, so that the broker parks the message in the end.
        """
        self._tasks.start(self._handle_safely(delivery))

    def take_bundle(self, delivery: Delivery) -> None:
        """Run and settle each job of a bundle, in a task of its own; too many of them are parked unread."""
        is_ours = count_bodies(delivery.body) <= MAX_BUNDLE_JOBS
        for part in Bundle(delivery).parts if is_ours else (delivery,):
            self._tasks.start(self._handle_safely(part))

    @property
    def in_hand(self) -> int:
        """How many jobs are being handled; a bundle is a delivery of several."""
        return len(self._tasks)

    async def finish(self, *, grace_seconds: float) -> int:
        """Return when nothing is in hand, with the number of jobs given back because the grace time was over.

        Giving back burns no attempt. A settlement that has begun is finished first.
        """
        return await self._tasks.finish(grace_seconds=grace_seconds)

    async def _handle_safely(self, delivery: Delivery | Part) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._handle(delivery, task)
        except DeliveryLost:
            logger.info("delivery_lost", extra={"job_id": delivery.correlation_id})
        except Exception:  # One of the three edges, the service loop of a worker.
            logger.exception("delivery_crashed", extra={"job_id": delivery.correlation_id})
            await _refuse(delivery)
        finally:
            self._tasks.end(task)

    async def _handle(self, delivery: Delivery | Part, task: asyncio.Task[None]) -> None:
        try:
            said = JobMessage.decode(delivery.body)
            job = _attributed(said, delivery)
            if not may_carry(delivery.routing_key, job.kind):
                raise MessageUndecodable(f"kind: {job.kind} came with the routing key {delivery.routing_key}")
        except MessageUndecodable as error:
            with self._tasks.settling(task):
                await self._park_raw(delivery, _too_many_lines(delivery) or error)
            return
        if (job.report is not None and job.is_parked_copy) or delivery.was_dead:
            with self._tasks.settling(task):
                await self._ask_for_redrive(delivery, job)
            return
        key, may_be_settled = attempt_key(job), delivery.is_redelivered
        if self._dedupe.is_running(key):
            await self._dedupe.wait_ended(key)
            # It came before the outcome of that attempt was confirmed, so it cannot stand for a lost outcome.
            may_be_settled = True
        if may_be_settled and self._dedupe.is_settled(key):
            delivery.ack()
            return
        self._dedupe.begin(key)
        try:
            attempt = self._without_trying(delivery, job) or await self._run(delivery, job, task)
            # What a stranger says himself of his publisher is not passed on.
            came = delivery.body if job is said else None
            if delivery.returns:
                job = job.model_copy(update={"returns": min(job.returns + delivery.returns, MAX_DEFERRALS)})
            with self._tasks.settling(task):
                await self._settle(delivery, job, attempt, came=came)
        finally:
            self._dedupe.end(key)

    def _without_trying(self, delivery: Delivery | Part, job: JobMessage) -> Attempt | None:
        """Return the attempt of a job that is cancelled, foreign or maybe poison; None if it is to be tried.

        A foreign one is not put off, because a worker's login may delay jobs of its own kinds alone.
        """
        if self._cancellations.has(job):
            return Attempt(None, utc_now(), Cancelled())
        outcome = self._executor.refusal_of(job) or quarantine(
            job, returns=delivery.returns, random=random.random
        )
        if outcome is None:
            return None
        now = utc_now()
        return Attempt(now if isinstance(outcome, Failed) else None, now, outcome)

    async def _run(self, delivery: Delivery | Part, job: JobMessage, task: asyncio.Task[None]) -> Attempt:
        running = self._running.attempt(job, task)
        try:
            with running:
                return await self._try(delivery, job, running)
        except asyncio.CancelledError:
            if running.was_cancelled():
                return Attempt(running.started_at, utc_now(), Cancelled())
            await _give_back(delivery, job)
            raise

    async def _try(self, delivery: Delivery | Part, job: JobMessage, running: RunningAttempt) -> Attempt:
        """Return one attempt, or that it was deferred; one whose first request went nowhere is made again.

        The address of a host is known only when the name has been looked up. An attempt that finds it busy
        then has not begun, and waits for it here, or is deferred, as if it had been known.
        """
        if job.starts_at is not None:
            if delivery.is_redelivered:
                return await _lost_its_time()
            await _wait_until(job.starts_at)
        given_back: Attempt | None = None
        address: str | None = None
        for rounds_left in _ROUNDS:
            permit = await self._admission.admit(job, address=address)
            if isinstance(permit, Deferred):
                # Nothing moves a job back that was reported as running.
                return given_back or Attempt(None, utc_now(), permit)
            if permit.has_waited and delivery.is_lost:
                with permit:
                    raise DeliveryLost("its channel closed while it waited: it is another delivery's")
            if given_back is None:
                self._running.start(running, utc_now(), permit)
            with permit:
                attempt = await self._executor.execute(job, permit)
            if permit.request is None or permit.busy_address is None:
                return attempt
            address = permit.busy_address
            if given_back is not None or not self._running.take_back(running):
                given_back = attempt
            elif not rounds_left:
                return Attempt(None, utc_now(), _deferred_again(address))
        assert given_back is not None
        return given_back

    async def _settle(
        self, delivery: Delivery | Part, job: JobMessage, attempt: Attempt, *, came: bytes | None
    ) -> None:
        """Report an attempt, and ack; a message that `came` may be passed on in the report as it is."""
        decision = decide(job, attempt, random=random.random)
        left = veiled(job, self._keys) if isinstance(decision, Park) else job
        message = settlement_message(left, attempt, decision, worker=self._worker, message=came)
        publisher = self._reports if message.exchange == RESULTS else self._publisher
        try:
            await publish_until_confirmed(message, publisher)
        except MessageTooLarge as error:
            attempt, decision = await self._park_too_large(delivery, job, attempt, error)
        self._dedupe.settled(attempt_key(job))
        self._note(job, attempt, decision)
        # Confirm before ack: a crash between the two repeats the job, the other order would lose it.
        delivery.ack()

    async def _ask_for_redrive(self, delivery: Delivery | Part, job: JobMessage) -> None:
        """Let a parked message that somebody has moved here begin the next run of its job.

        Its own run has ended. What came of it now could not be recorded.
        """
        with suppress(SecretUnreadable):
            # The store has its arguments, unless it was lost; then `adopt-parked` looks at what is parked.
            job = unveiled(job, self._keys)
        await publish_until_confirmed(redrive_request(job, worker=self._worker), self._publisher)
        logger.info("redrive_asked_for", extra={"job_id": str(job.id), "run": job.run})
        delivery.ack()

    async def _park_too_large(
        self, delivery: Delivery | Part, job: JobMessage, attempt: Attempt, error: MessageTooLarge
    ) -> tuple[Attempt, Decision]:
        """Park a job whose outcome the broker does not take; return what is said of its attempt instead."""
        outcome = Failed(TOO_LARGE, f"What follows the attempt cannot be sent. {error}", transient=False)
        instead, decision = attempt._replace(outcome=outcome), Park()
        left = veiled(job, self._keys)
        message = settlement_message(left, instead, decision, worker=self._worker)
        logger.warning("outcome_too_large", extra={"job_id": str(job.id), "error": str(error)})
        try:
            await publish_until_confirmed(message, self._publisher)
        except MessageTooLarge:
            # Even the copy alone is. What came in goes out again, byte for byte.
            await self._publish_raw(delivery, outcome.explanation)
        return instead, decision

    async def _park_raw(self, delivery: Delivery | Part, error: MessageUndecodable) -> None:
        """Park a message that nobody can read, byte for byte, with the reason in a header."""
        await self._publish_raw(delivery, str(error))
        logger.warning("message_undecodable", extra={"job_id": delivery.correlation_id, "error": str(error)})
        delivery.ack()

    async def _publish_raw(self, delivery: Delivery | Part, reason: str) -> None:
        raw = Outgoing(
            DEAD,
            delivery.routing_key,
            delivery.body,
            RAW_TYPE,
            delivery.correlation_id,
            {REASON_HEADER: printable(reason, limit=1_000)},
            content_type="application/octet-stream",
        )
        await publish_until_confirmed(raw, self._publisher)

    def _note(self, job: JobMessage, attempt: Attempt, decision: Decision) -> None:
        outcome = outcome_name(attempt.outcome)
        if outcome is None:
            self._note_deferral(job, attempt)
            return
        seconds = (attempt.ended_at - (attempt.started_at or attempt.ended_at)).total_seconds()
        self._metrics.count_attempt(job.kind, outcome, max(seconds, 0.0))
        if logger.isEnabledFor(logging.INFO):
            facts = {"job_id": str(job.id), "attempt": job.attempt, "kind": job.kind}
            settled_as = type(decision).__name__.lower()
            ended = {"outcome": outcome.value, "settled_as": settled_as, "seconds": round(seconds, 3)}
            logger.info("attempt_settled", extra={**facts, **ended})

    def _note_deferral(self, job: JobMessage, attempt: Attempt) -> None:
        if isinstance(attempt.outcome, Deferred):
            facts = {"job_id": str(job.id), "attempt": job.attempt, "deferrals": job.deferrals + 1}
            reason, seconds = attempt.outcome.reason, attempt.outcome.seconds
            self._metrics.deferrals.labels(job.kind, reason).inc()
            logger.info("job_deferred", extra={**facts, "reason": reason, "seconds": round(seconds, 3)})


async def _wait_until(starts_at: datetime) -> None:
    seconds = (starts_at - utc_now()).total_seconds()
    if seconds > 0:
        await asyncio.sleep(min(seconds, _LONGEST_AHEAD_SECONDS))


async def _lost_its_time() -> Attempt:
    """Return the deferral of a job whose worker died with it, or lost its connection.

    Its request may have been made, and there are others like it. So it asks for a time anew, and not in the
    same moment as they.
    """
    await asyncio.sleep(random.random())
    said = "Deferred, because it was delivered again, and its time at its host is over."
    return Attempt(None, utc_now(), Deferred(SHORTEST_DEFERRAL_SECONDS, DeferralReason.BUSY, said))


def _deferred_again(address: str) -> Deferred:
    said = f"Deferred, because its host was found at {address}, which this worker may not ask just now."
    return Deferred(SHORTEST_DEFERRAL_SECONDS, DeferralReason.BUSY, said)


def _too_many_lines(delivery: Delivery | Part) -> MessageUndecodable | None:
    lines = count_bodies(delivery.body)
    if isinstance(delivery, Part) or lines <= MAX_BUNDLE_JOBS or not is_bundle_key(delivery.routing_key):
        return None
    return MessageUndecodable(f"body: {lines} lines, and a message has at most {MAX_BUNDLE_JOBS} jobs")


async def _give_back(delivery: Delivery | Part, job: JobMessage) -> None:
    facts = {"job_id": str(job.id), "attempt": job.attempt}
    try:
        await delivery.requeue()
    except DeliveryLost:
        logger.info("delivery_lost", extra=facts)
    else:
        logger.info("job_given_back", extra=facts)


async def _refuse(delivery: Delivery | Part) -> None:
    try:
        await delivery.refuse()
    except DeliveryLost:
        logger.info("delivery_lost", extra={"job_id": delivery.correlation_id})


class AttemptDedupe:
    """Lets no redelivery run an attempt again that this worker is running or has settled.

    When a connection is lost the broker delivers everything unacked again, often to the same worker. An
    attempt that is still running here is then waited for, and one that is settled but whose ack was lost is
    only acked. Not so a message that was published anew: it was sent because the outcome was lost, and has
    to run. It knows one process; across processes a job runs at least once.
    """

    def __init__(self) -> None:
        """Begin with nothing running and nothing settled."""
        self._running: dict[AttemptKey, list[asyncio.Future[None]]] = {}
        self._settled: OrderedDict[AttemptKey, None] = OrderedDict()

    def is_running(self, key: AttemptKey) -> bool:
        """Return whether another delivery of the same attempt is in hand."""
        return key in self._running

    async def wait_ended(self, key: AttemptKey) -> None:
        """Return once no other delivery of the same attempt is in hand."""
        while (waiting := self._running.get(key)) is not None:
            ended = asyncio.get_running_loop().create_future()
            waiting.append(ended)
            await ended

    def is_settled(self, key: AttemptKey) -> bool:
        """Return whether the broker has confirmed the attempt's outcome, which may have been lost since."""
        return key in self._settled

    def begin(self, key: AttemptKey) -> None:
        """Note that a free attempt runs, until `end`."""
        self._running[key] = []

    def end(self, key: AttemptKey) -> None:
        """Note that the attempt runs no longer, settled or not."""
        for waiting in self._running.pop(key):
            if not waiting.done():
                waiting.set_result(None)

    def settled(self, key: AttemptKey) -> None:
        """Remember that the broker has confirmed the attempt's outcome."""
        self._settled[key] = None
        if len(self._settled) > _SETTLED_KEPT:
            self._settled.popitem(last=False)


def _attributed(job: JobMessage, delivery: Delivery | Part) -> JobMessage:
    """Return a job; one of a third party with the user who published it, as long as the broker says that."""
    # What comes back from a delay was written by a worker.
    if job.token is not None or delivery.exchange == RETURN or job.publisher == delivery.user_id:
        return job
    return job.model_copy(update={"publisher": delivery.user_id})


def attempt_key(job: JobMessage) -> AttemptKey:
    """Return what tells an attempt from all others."""
    # A job that was deferred comes back for the same attempt, and that is no redelivery.
    # A stranger's message of the same id has no token, and must not stand for the ledger's.
    # The number of the id, because a UUID is hashed in Python.
    return job.id.int, job.run, job.attempt, job.deferrals, job.token


class DeliveryTasks:
    """The tasks of a worker's jobs, and how they end when the worker stops."""

    def __init__(self) -> None:
        """Begin with nothing in hand."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many jobs are in hand."""
        return len(self._tasks)

    def start(self, handling: Coroutine[None, None, None]) -> None:
        """Start a task that handles a job, and calls `end` at last: a callback would cost more."""
        # Kept, because looking for the running loop is a system call.
        self._loop = self._loop or asyncio.get_running_loop()
        self._tasks.add(self._loop.create_task(handling))

    def end(self, task: asyncio.Task[None]) -> None:
        """Note that a job is handled."""
        self._tasks.discard(task)

    def settling(self, task: asyncio.Task[None]) -> AbstractContextManager[None]:
        """Mark a task as settling its delivery while inside; a worker that stops does not cancel it."""
        return _Settling(self._settling, task)

    async def finish(self, *, grace_seconds: float) -> int:
        """Return when nothing is in hand, with the number of tasks that outlived the grace time.

        Those that settle by then are not cancelled, but do not hold up the worker for ever.
        """
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        unfinished = list(self._tasks)
        for task in unfinished:
            if task not in self._settling:
                task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=_SETTLE_LIMIT_SECONDS)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        return len(unfinished)


class _Settling:
    # A class, and no generator, because every job passes here.
    __slots__ = ("_all", "_task")

    def __init__(self, tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        self._all = tasks
        self._task = task

    def __enter__(self) -> None:
        self._all.add(self._task)

    def __exit__(self, *_: object) -> None:
        self._all.discard(self._task)
