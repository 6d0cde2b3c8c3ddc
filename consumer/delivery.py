"""One delivery in hand: read it, run its attempt, settle it. The worker's part of a job's life."""

import asyncio
import logging
import random

from consumer.announcing import Announcer
from consumer.cancellations import Cancellations
from consumer.executor import Attempt, Executor
from consumer.in_hand import AttemptsInHand, attempt_key
from consumer.metrics import WorkerMetrics
from consumer.politeness.admission import Admission
from consumer.reporting import ReportGatherer
from consumer.settlement import Decision, decide, publish_until_confirmed, settlement_message
from consumer.suspects import suspicion
from consumer.tasks import DeliveryTasks
from shared.broker.bundle import Bundle, Part
from shared.broker.delivery import Delivery
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import DEAD, RESULTS
from shared.clock import utc_now
from shared.errors import DeliveryLost, MessageUndecodable
from shared.messages import RAW_TYPE, REASON_HEADER, JobMessage
from shared.outcomes import Cancelled, Deferred, Failed, outcome_name

logger = logging.getLogger(__name__)


class DeliveryHandler:
    """Handles the deliveries of one worker."""

    def __init__(
        self,
        *,
        executor: Executor,
        admission: Admission,
        publisher: Publisher,
        reports: ReportGatherer | None = None,
        cancellations: Cancellations,
        metrics: WorkerMetrics,
        worker: str,
    ) -> None:
        """Make a handler.

        Args:
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
        self._announcer = Announcer(publisher, worker=worker)
        self._in_hand = AttemptsInHand()
        self._tasks = DeliveryTasks()

    def take(self, delivery: Delivery) -> None:
        """Run and settle one delivery, in a task of its own.

        A bug of ours counts as a delivery, so that the broker parks the message in the end.
        """
        self._tasks.start(self._handle_safely(delivery))

    def take_bundle(self, delivery: Delivery) -> None:
        """Run and settle each job of a bundle, in a task of its own."""
        for part in Bundle(delivery).parts:
            self._tasks.start(self._handle_safely(part))

    @property
    def in_hand(self) -> int:
        """How many deliveries are being handled."""
        return len(self._tasks)

    async def finish(self, *, grace_seconds: float) -> int:
        """Return when nothing is in hand, and how many were given back, because their time was over.

        That burns no attempt. A settlement that has begun is finished first.
        """
        return await self._tasks.finish(grace_seconds=grace_seconds)

    async def _handle_safely(self, delivery: Delivery | Part) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._handle(delivery, task)
        except Exception:  # One of the three edges, the service loop of a worker.
            logger.exception("delivery_crashed", extra={"job_id": delivery.correlation_id})
            await _refuse(delivery)
        finally:
            self._tasks.end(task)

    async def _handle(self, delivery: Delivery | Part, task: asyncio.Task[None]) -> None:
        try:
            job = JobMessage.decode(delivery.body)
        except MessageUndecodable as error:
            with self._tasks.settling(task):
                await self._park_raw(delivery, error)
            return
        key = attempt_key(job)
        if self._in_hand.has(key):
            await self._in_hand.wait_put_down(key)
        if not self._in_hand.take(key):
            delivery.ack()
            return
        try:
            attempt = self._judge(delivery, job) or await self._run(delivery, job, task)
            if delivery.returns:
                job = job.model_copy(update={"returns": job.returns + delivery.returns})
            with self._tasks.settling(task):
                await self._settle(delivery, job, attempt)
        finally:
            self._in_hand.put_down(key)

    def _judge(self, delivery: Delivery | Part, job: JobMessage) -> Attempt | None:
        """Return what becomes of a job that is not to be tried."""
        if self._cancellations.has(job):
            return Attempt(None, utc_now(), Cancelled())
        judged = suspicion(job, returns=delivery.returns, random=random.random)
        if judged is None:
            return None
        now = utc_now()
        return Attempt(now if isinstance(judged, Failed) else None, now, judged)

    async def _run(self, delivery: Delivery | Part, job: JobMessage, task: asyncio.Task[None]) -> Attempt:
        started_at = utc_now()
        try:
            with self._cancellations.watching(job, task):
                permit = await self._admission.admit(job)
                if isinstance(permit, Deferred):
                    return Attempt(None, utc_now(), permit)
                self._announcer.begin(task, job, started_at)
                try:
                    with permit:
                        return await self._executor.execute(job, permit)
                finally:
                    self._announcer.end(task)
        except asyncio.CancelledError:
            if self._cancellations.was_cancelled():
                return Attempt(started_at, utc_now(), Cancelled())
            await _give_back(delivery, job)
            raise

    async def _settle(self, delivery: Delivery | Part, job: JobMessage, attempt: Attempt) -> None:
        decision = decide(job, attempt, random=random.random)
        message = settlement_message(job, attempt, decision, worker=self._worker, message=delivery.body)
        way = self._reports if message.exchange == RESULTS else self._publisher
        await publish_until_confirmed(message, way)
        self._in_hand.settled(attempt_key(job))
        self._note(job, attempt, decision)
        # Confirm before ack: a crash between the two repeats the job, the other order would lose it.
        delivery.ack()

    async def _park_raw(self, delivery: Delivery | Part, error: MessageUndecodable) -> None:
        """Park a message that nobody can read, byte for byte, with the reason in a header."""
        headers = {REASON_HEADER: str(error)[:1_000]}
        raw = Outgoing(
            DEAD,
            delivery.routing_key,
            delivery.body,
            RAW_TYPE,
            delivery.correlation_id,
            headers,
            content_type="application/octet-stream",
        )
        await publish_until_confirmed(raw, self._publisher)
        logger.warning("message_undecodable", extra={"job_id": delivery.correlation_id, "error": str(error)})
        delivery.ack()

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
