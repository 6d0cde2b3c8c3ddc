"""The recorder: writes what workers report into the store, in batches, idempotently, then acks.

It also adopts: a job that the store does not know, because somebody else has published it, gets its row.
"""

import asyncio
import logging
from collections.abc import Sequence

from producer.adoption import adopt_jobs
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.reports import REPORTS_ONLY, ParsedDelivery, ParsedReport, parse_delivery
from producer.records import Recorded, UnreadableJob
from producer.store import endings, recording, submissions
from producer.store.database import RetryingStore
from shared.broker.bundle import count_bodies
from shared.broker.delivery import Delivery
from shared.broker.subscriber import Subscriber, Subscription
from shared.broker.topology import LARGE_RESULTS_QUEUE, RECORDER_QUEUE
from shared.clock import utc_now
from shared.errors import DeliveryLost, MessageUndecodable, StoreRefused
from shared.messages import Job, Report
from shared.settings import Settings

# Large reports have at most 8 MiB each, others `topology.LARGE_REPORT_BYTES`. So what a recorder
# has in hand is bounded, however large the bodies are that workers fetch.
_LARGE_PREFETCH = 8
# One transaction holds no more; decoded, a report takes as much again.
_GROUP_BYTES = 16 * 1_048_576

logger = logging.getLogger(__name__)


class Recorder:
    """Consumes `results.recorder` and `results.large`. Any number of recorders share the work."""

    def __init__(self, *, store: RetryingStore, metrics: LedgerMetrics, settings: Settings) -> None:
        """Make a recorder that is not connected yet."""
        self._store = store
        self._metrics = metrics
        self._batch_limit = settings.recorder_prefetch
        self._waiting: asyncio.Queue[Delivery] = asyncio.Queue()
        self._consumer = Subscriber(
            settings.amqp_url,
            name="retriever ledger recorder",
            subscriptions=[
                Subscription(RECORDER_QUEUE, settings.recorder_prefetch, self._waiting.put_nowait),
                Subscription(LARGE_RESULTS_QUEUE, _LARGE_PREFETCH, self._waiting.put_nowait),
            ],
            plain=settings.amqp_plain,
        )

    @property
    def is_ready(self) -> bool:
        """Whether the queues of results are being consumed."""
        return self._consumer.is_consuming

    async def run(self) -> None:
        """Record until cancelled. What was not acked by then is delivered again and changes nothing."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._consumer.run())
            group.create_task(self._record_batches())

    async def _record_batches(self) -> None:
        while True:
            await self._record_batch(await self._take_batch())

    async def _take_batch(self) -> list[Delivery]:
        """Return what has arrived, at least one delivery, and hardly more than one transaction holds."""
        deliveries: list[Delivery] = []
        reports = held_bytes = 0
        # Whatever arrived meanwhile is written in the same transaction: batches grow with the load.
        while not deliveries or (
            reports < self._batch_limit and held_bytes < _GROUP_BYTES and not self._waiting.empty()
        ):
            deliveries.append(await self._waiting.get())
            reports += count_bodies(deliveries[-1].body)
            held_bytes += len(deliveries[-1].body)
        return deliveries

    async def _record_batch(self, deliveries: Sequence[Delivery]) -> None:
        now = utc_now()
        parsed = [(delivery, parse_delivery(delivery, now=now)) for delivery in deliveries]
        try:
            await self._record([report for _, each in parsed for report in each.reports])
        except StoreRefused:
            await self._record_singly(parsed)
            return
        # Commit before ack: a crash between the two repeats the record, the other order would lose it.
        for delivery, each in parsed:
            await _settle(delivery, each.error)

    async def _record_singly(self, parsed: Sequence[tuple[Delivery, ParsedDelivery]]) -> None:
        """Record each report on its own, so that one that the store refuses holds up no other."""
        for delivery, each in parsed:
            error: MessageUndecodable | StoreRefused | None = each.error
            for report in each.reports:
                try:
                    await self._record([report])
                except StoreRefused as refused:
                    error = error or refused
            await _settle(delivery, error)

    async def _record(self, parsed: Sequence[ParsedReport]) -> None:
        # All of it may run twice: then it changes nothing.
        await self._adopt([each.job for each in parsed if each.report is None and each.job is not None])
        await self._park([each.unreadable for each in parsed if each.unreadable is not None])
        reports = [each.report for each in parsed if each.report is not None]
        if not reports:
            return
        recorded = await self._write(reports)
        unknown = recorded.unknown_job_ids
        strangers = [each.job for each in parsed if each.job is not None and each.job.id in unknown]
        if strangers:
            # The report was faster than the copy of the job, or there was none.
            await self._adopt(strangers)
            ids = frozenset(job.id for job in strangers)
            again = await self._write([report for report in reports if report.job_id in ids])
            recorded = Recorded(
                [*recorded.transitions, *again.transitions], unknown - ids | again.unknown_job_ids
            )
        self._note(recorded, len(reports))

    async def _write(self, reports: Sequence[Report]) -> Recorded:
        return await self._store.write(recording.record_reports, reports, now=utc_now())

    async def _adopt(self, jobs: Sequence[Job]) -> None:
        adopted = adopt_jobs(jobs, now=utc_now())
        if not adopted:
            return
        for job_id in sorted(await self._store.write(submissions.insert_adopted, adopted)):
            self._metrics.jobs_adopted.inc()
            logger.info("job_adopted", extra={"job_id": str(job_id)})

    async def _park(self, unreadable: Sequence[UnreadableJob]) -> None:
        if unreadable:
            parked = await self._store.write(endings.park_unreadable, unreadable, now=utc_now())
            self._metrics.note_transitions(parked)

    def _note(self, recorded: Recorded, reports: int) -> None:
        self._metrics.reports.labels("changed").inc(len(recorded.transitions))
        self._metrics.reports.labels("unknown_job").inc(len(recorded.unknown_job_ids))
        self._metrics.reports.labels("late").inc(
            max(reports - len(recorded.transitions) - len(recorded.unknown_job_ids), 0)
        )
        self._metrics.note_transitions(recorded.transitions)
        for job_id in recorded.unknown_job_ids:
            logger.warning("report_for_unknown_job", extra={"job_id": str(job_id)})


async def _settle(delivery: Delivery, error: MessageUndecodable | StoreRefused | None) -> None:
    """Ack a message that is recorded; put one aside, as it came, when part of it could not be."""
    if error is None:
        delivery.ack()
    else:
        await _put_aside(delivery, error)


async def _put_aside(delivery: Delivery, error: MessageUndecodable | StoreRefused) -> None:
    logger.error("report_put_aside", extra={"job_id": delivery.correlation_id, "error": str(error)})
    if delivery.exchange in REPORTS_ONLY:
        try:
            # The queue dead-letters to `jobs.parked`, for a person to see.
            await delivery.dead_letter()
        except DeliveryLost:
            logger.info("delivery_lost", extra={"job_id": delivery.correlation_id})
    else:
        # The same message is in its delay or parking queue.
        delivery.ack()
