"""The recorder: writes what workers report into the store, in batches, idempotently, then acks.

It also adopts: a job that the store does not know, because somebody else has published it, gets its row.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from uuid import UUID

from producer.adoption import adopt_jobs, is_adoptable, project_of
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.reports import REPORTS_ONLY, ParsedDelivery, ParsedReport, parse_delivery
from producer.records import Recorded
from producer.run_tokens import RunTokens
from producer.store import endings, parking, recording, submissions
from producer.store.database import RetryingStore
from shared.broker.bundle import count_bodies
from shared.broker.delivery import Delivery
from shared.broker.subscriber import Subscriber, Subscription
from shared.broker.topology import LARGE_REPORT_BYTES, LARGE_RESULTS_QUEUE, RECORDER_QUEUE
from shared.clock import utc_now
from shared.errors import (
    DeliveryLost,
    MessageUndecodable,
    ProjectLimitReached,
    ReportDisbelieved,
    ReportFailed,
    StoreRefused,
)
from shared.kinds.registry import KINDS
from shared.messages import Job, Report
from shared.settings import Settings

# Large reports have at most 8 MiB each, others `topology.LARGE_REPORT_BYTES`. So what a recorder
# has in hand is bounded, however large the bodies are that workers fetch.
_LARGE_PREFETCH = 8
# One transaction holds no more; decoded, a report takes as much again.
_GROUP_BYTES = 16 * 1_048_576

# Why a message, or part of it, was put aside, and what the metric calls it.
PutAside = MessageUndecodable | ReportDisbelieved | ReportFailed | StoreRefused | ProjectLimitReached
_REASONS = {
    MessageUndecodable: "undecodable",
    ReportDisbelieved: "token",
    ReportFailed: "failed",
    StoreRefused: "refused",
    ProjectLimitReached: "quota",
}
# A report with its place among those that are recorded together.
_Told = tuple[int, ParsedReport, Report]

logger = logging.getLogger(__name__)


class Recorder:
    """Consumes `results.recorder` and `results.large`. Any number of recorders share the work."""

    def __init__(
        self, *, store: RetryingStore, metrics: LedgerMetrics, settings: Settings, tokens: RunTokens
    ) -> None:
        """Make a recorder that is not connected yet."""
        self._store = store
        self._tokens = tokens
        self._whose = partial(project_of, tokens=tokens, publishers=settings.publisher_projects)
        self._metrics = metrics
        self._batch_limit = settings.recorder_prefetch
        self._failures_to_open = settings.host_failures
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
        parsed: list[tuple[Delivery, ParsedDelivery]] = []
        for delivery in deliveries:
            parsed.append((delivery, parse_delivery(delivery, now=now)))
            if len(delivery.body) > LARGE_REPORT_BYTES:
                await asyncio.sleep(0)  # It took up to a tenth of a second.
        try:
            disbelieved = await self._record([report for _, each in parsed for report in each.reports])
        except Exception as failure:  # One of the three edges: whatever is wrong with one holds up no other.
            logger.info("recording_singly", extra={"messages": len(parsed), "error": repr(failure)[:300]})
            await self._record_singly(parsed)
            return
        # Commit before ack: a crash between the two repeats the record, the other order would lose it.
        first = 0
        for delivery, each in parsed:
            places = range(first, first := first + len(each.reports))
            error = each.error or next((disbelieved[place] for place in places if place in disbelieved), None)
            await self._settle(delivery, error)

    async def _record_singly(self, parsed: Sequence[tuple[Delivery, ParsedDelivery]]) -> None:
        """Record each report on its own, so that one that cannot be recorded holds up no other."""
        for delivery, each in parsed:
            error: PutAside | None = each.error
            for report in each.reports:
                try:
                    disbelieved = await self._record([report])
                except StoreRefused as refused:
                    error = error or refused
                except Exception as failure:  # As above.
                    named = report.report or report.unreadable or report.job
                    logger.exception("report_not_recorded", extra={"report": repr(named)[:500]})
                    error = error or ReportFailed(f"{type(failure).__name__}: {failure}"[:500])
                else:
                    error = error or disbelieved.get(0)
            await self._settle(delivery, error)

    async def _record(self, parsed: Sequence[ParsedReport]) -> Mapping[int, PutAside]:
        """Record reports; return why some are put aside, by their places."""
        # All of it may run twice: then it changes nothing.
        await self._adopt([each.job for each in parsed if each.report is None and each.job is not None])
        disbelieved: dict[int, PutAside] = {**await self._park_unreadable(parsed)}
        heard = [(place, each, each.report) for place, each in enumerate(parsed) if each.report is not None]
        disbelieved |= await self._redrive([each for each in heard if each[2].asks_for_redrive])
        told = [
            each if each[2].body is None else await self._with_true_body(each)
            for each in heard
            if not each[2].asks_for_redrive
        ]
        if not told:
            return disbelieved
        recorded = await self._write(told)
        unknown = recorded.unknown_job_ids
        strangers = [each.job for _, each, _ in told if each.job is not None and each.job.id in unknown]
        if strangers:
            # The report was faster than the copy of the job, or there was none.
            refused = await self._adopt(strangers)
            # What became of those whose projects have no room is put aside, and that they run is no loss.
            disbelieved |= {
                place: refused[report.job_id]
                for place, _, report in told
                if report.job_id in refused and report.state.is_final
            }
            ids = frozenset(job.id for job in strangers)
            again = await self._write([each for each in told if each[2].job_id in ids])
            recorded = Recorded(
                [*recorded.transitions, *again.transitions],
                unknown - ids | again.unknown_job_ids,
                recorded.disbelieved | again.disbelieved,
            )
        self._note(recorded, [report for _, _, report in told])
        return disbelieved | {place: _disbelieved(parsed[place]) for place in recorded.disbelieved}

    async def _with_true_body(self, told: _Told) -> _Told:
        """Return a report as it came, or without a body that is not what it says: it could not be served.

        A worker of ours says the truth, and the token shows that it is one.
        """
        place, parsed, report = told
        is_ours = self._tokens.is_token_of(parsed.token, report.job_id, report.run)
        if is_ours or report.body is None or await asyncio.to_thread(report.body.is_as_said):
            return told
        logger.warning("body_not_as_said", extra={"job_id": str(report.job_id), "run": report.run})
        return place, parsed, report.model_copy(update={"body": None})

    async def _write(self, told: Sequence[_Told]) -> Recorded:
        """Write reports, each with its place; return what they came to, with these places."""
        recorded = await self._store.write(
            recording.record_reports,
            [report for _, _, report in told],
            now=utc_now(),
            unproven=self._unproven(told),
            failures_to_open=self._failures_to_open,
        )
        return replace(recorded, disbelieved=frozenset(told[at][0] for at in recorded.disbelieved))

    async def _adopt(self, jobs: Sequence[Job]) -> Mapping[UUID, ProjectLimitReached]:
        """Store jobs of others; return why their projects may not store some."""
        for job in jobs:
            if job.kind in KINDS and not is_adoptable(job):
                facts = {"job_id": str(job.id), "run": job.run, "attempt": job.attempt}
                logger.warning("job_not_adopted", extra=facts)
        adopted = adopt_jobs(jobs, whose=self._whose, now=utc_now())
        if not adopted:
            return {}
        adoption = await self._store.write(submissions.adopt_fitting, adopted)
        for job_id in sorted(adoption.stored):
            self._metrics.jobs_adopted.inc()
            logger.info("job_adopted", extra={"job_id": str(job_id)})
        for job_id, error in adoption.refused.items():
            logger.warning("job_not_adopted", extra={"job_id": str(job_id), "error": str(error)})
        return adoption.refused

    async def _park_unreadable(self, parsed: Sequence[ParsedReport]) -> dict[int, ReportDisbelieved]:
        """Park jobs whose messages nobody could read; return why some are not believed, by their places."""
        named = [(at, each, each.unreadable) for at, each in enumerate(parsed) if each.unreadable is not None]
        if not named:
            return {}
        proven = {at: it for at, each, it in named if self._tokens.is_token_of(each.token, it.job_id, it.run)}
        if proven:
            parked = await self._store.write(endings.park_unreadable, [*proven.values()], now=utc_now())
            self._metrics.note_transitions(parked)
        return {at: _disbelieved(each) for at, each, _ in named if at not in proven}

    async def _redrive(self, asked: Sequence[_Told]) -> dict[int, ReportDisbelieved]:
        """Redrive jobs whose parked messages were moved; return why some are not believed, by places."""
        if not asked:
            return {}
        reports = [report for _, _, report in asked]
        moved = await self._store.write(
            parking.redrive_moved, reports, now=utc_now(), unproven=self._unproven(asked)
        )
        self._metrics.note_transitions(moved.transitions)
        return {asked[at][0]: _disbelieved(asked[at][1]) for at in moved.disbelieved}

    def _unproven(self, told: Sequence[_Told]) -> frozenset[int]:
        return frozenset(
            at
            for at, (_, each, report) in enumerate(told)
            if not self._tokens.prove(each.token, report.job_id, report.run)
        )

    def _note(self, recorded: Recorded, reports: Sequence[Report]) -> None:
        known = len(reports) - len(recorded.unknown_job_ids) - len(recorded.disbelieved)
        # One that tells of more output moves its job only where it is the first to say that it runs.
        outputs = sum(report.output is not None for report in reports)
        self._metrics.reports.labels("changed").inc(len(recorded.transitions))
        self._metrics.reports.labels("unknown_job").inc(len(recorded.unknown_job_ids))
        self._metrics.reports.labels("output").inc(outputs)
        self._metrics.reports.labels("late").inc(max(known - len(recorded.transitions) - outputs, 0))
        self._metrics.note_transitions(recorded.transitions)
        for job_id in recorded.unknown_job_ids:
            logger.warning("report_for_unknown_job", extra={"job_id": str(job_id)})

    async def _settle(self, delivery: Delivery, error: PutAside | None) -> None:
        """Ack a message that is recorded; put one aside, as it came, when part of it could not be."""
        if error is None:
            delivery.ack()
            return
        self._metrics.reports_put_aside.labels(_REASONS[type(error)]).inc()
        # A refusal of the store is for an operator; anybody may send what is not believed or read.
        level = logging.ERROR if isinstance(error, StoreRefused | ReportFailed) else logging.WARNING
        facts = {"job_id": delivery.correlation_id, "exchange": delivery.exchange, "error": str(error)}
        logger.log(level, "report_put_aside", extra=facts)
        if delivery.exchange not in REPORTS_ONLY:
            # The same message is in its delay or parking queue.
            delivery.ack()
            return
        try:
            # The queue dead-letters to `jobs.parked`, for a person to see.
            await delivery.dead_letter()
        except DeliveryLost:
            logger.info("delivery_lost", extra={"job_id": delivery.correlation_id})


def _disbelieved(parsed: ParsedReport) -> ReportDisbelieved:
    named = parsed.report or parsed.unreadable
    assert named is not None
    lack = "a wrong token" if parsed.token else "no token"
    return ReportDisbelieved(f"job {named.job_id}, run {named.run}: the message has {lack}")
