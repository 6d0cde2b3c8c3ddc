"""The recorder: writes what workers report into the store, in batches, idempotently, then acks.

It also adopts: a job that the store does not know, because somebody else has published it, gets its row.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
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
from shared.broker.topology import (
    DEAD,
    DELAY,
    INTERACTIVE_RESULTS_QUEUE,
    LARGE_INTERACTIVE_RESULTS_QUEUE,
    LARGE_RESULTS_QUEUE,
    RECORDER_QUEUE,
    is_interactive_key,
)
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

# Large reports have at most 8 MiB each, others `LARGE_REPORT_BYTES` of topology. So what a recorder
# has in hand is bounded, however large the bodies are that workers fetch.
_LARGE_PREFETCH = 8
# Of copies half as many, for they are in hand beside those.
_LARGE_COPIES = 4
# So many reports are one short transaction.
_INTERACTIVE_PREFETCH = 100
# For so long the recorder of the interactive lane has its reports for itself.
_LEFT_SECONDS = 1.0
_MOST_REMEMBERED = 10_000
# One transaction holds no more; decoded, a report takes as much again.
_GROUP_BYTES = 16 * 1_048_576

# So much is parsed in a few milliseconds.
_YIELD_BYTES = 32_768

# Why a message, or part of it, was put aside, and what the metric calls it.
PutAside = MessageUndecodable | ReportDisbelieved | ReportFailed | StoreRefused | ProjectLimitReached
_REASONS = {
    MessageUndecodable: "undecodable",
    ReportDisbelieved: "token",
    ReportFailed: "failed",
    StoreRefused: "refused",
    ProjectLimitReached: "quota",
}
# The exchange, because a message that was delayed may be dead-lettered later as it is.
_Digest = tuple[str, int]
_Take = Callable[[Delivery], None]
# The exchanges whose messages of the interactive lane are in its queues, too.
_COPIED = frozenset({*REPORTS_ONLY, DELAY, DEAD})
# A report with its place among those that are recorded together.
_Told = tuple[int, ParsedReport, Report]

logger = logging.getLogger(__name__)


class Copies:
    """What the recorder of the interactive lane has recorded, and what the other has in hand meanwhile.

    A report that both wrote at once would make one wait for the other's transaction, and cost twice. Bodies
    are told apart by their hashes, which are seeded anew in every process.
    """

    def __init__(self, *, most_held: int) -> None:
        """Have seen nothing.

        Args:
            most_held: What comes beyond these is not held; they keep others of the queue from coming.
        """
        self._most_held = most_held
        self._recorded: OrderedDict[_Digest, None] = OrderedDict()
        self._held: dict[_Digest, tuple[Delivery, _Take]] = {}

    def note(self, delivery: Delivery, *, is_recorded: bool) -> None:
        """Note a delivery; ack the same message of the other queue, or let it be taken."""
        digest = _digest(delivery)
        if is_recorded:
            self._recorded[digest] = None
        if len(self._recorded) > _MOST_REMEMBERED:
            self._recorded.popitem(last=False)
        match self._held.pop(digest, None):
            case (same, _) if is_recorded:
                same.ack()
            case (same, take):
                take(same)

    def hold(self, delivery: Delivery, take: _Take) -> None:
        """Ack a delivery that is recorded, or is within a second; otherwise let it be taken."""
        digest = _digest(delivery)
        if digest in self._recorded:
            delivery.ack()
        elif digest in self._held or len(self._held) >= self._most_held:
            take(delivery)
        else:
            self._held[digest] = held = delivery, take
            asyncio.get_running_loop().call_later(_LEFT_SECONDS, self._let_go, digest, held)

    def _let_go(self, digest: _Digest, held: tuple[Delivery, _Take]) -> None:
        if self._held.get(digest) is held:
            del self._held[digest]
            delivery, take = held
            take(delivery)


class Recorder:
    """Consumes `results.recorder` and `results.large`. Any number of recorders share the work."""

    _name = "recorder"

    def __init__(
        self,
        *,
        store: RetryingStore,
        metrics: LedgerMetrics,
        settings: Settings,
        tokens: RunTokens,
        copies: Copies | None = None,
    ) -> None:
        """Make a recorder that is not connected yet.

        Args:
            copies: Shared with the `InteractiveRecorder` beside it, if there is one.
        """
        self._store = store
        self._tokens = tokens
        self._whose = partial(project_of, tokens=tokens, publishers=settings.publisher_projects)
        self._metrics = metrics
        self._copies = copies
        self._batch_limit = settings.recorder_prefetch
        self._failures_to_open = settings.host_failures
        self._waiting: asyncio.Queue[Delivery] = asyncio.Queue()
        self._consumer = Subscriber(
            settings.amqp_url,
            name=f"retriever ledger {self._name}",
            subscriptions=[Subscription(*each, self._take) for each in self._queues(settings)],
            plain=settings.amqp_plain,
        )

    def _queues(self, settings: Settings) -> list[tuple[str, int]]:
        return [(RECORDER_QUEUE, settings.recorder_prefetch), (LARGE_RESULTS_QUEUE, _LARGE_PREFETCH)]

    def _take(self, delivery: Delivery) -> None:
        if self._copies and is_interactive_key(delivery.routing_key) and delivery.exchange in _COPIED:
            self._copies.hold(delivery, self._waiting.put_nowait)
        else:
            self._waiting.put_nowait(delivery)

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
        unyielded_bytes = 0
        for delivery in deliveries:
            parsed.append((delivery, parse_delivery(delivery, now=now)))
            unyielded_bytes += len(delivery.body)
            if unyielded_bytes > _YIELD_BYTES:
                # It took milliseconds, up to a tenth of a second, and those of the interactive lane wait.
                await asyncio.sleep(0)
                unyielded_bytes = 0
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


class InteractiveRecorder(Recorder):
    """Consumes `results.interactive` and `results.interactive.large`: copies of what is in the other queues.

    It records what workers have reported of jobs that the store knows. All else, and whatever fails, it
    leaves to the `Recorder`, which has the same messages.
    """

    _name = "interactive recorder"

    def _queues(self, settings: Settings) -> list[tuple[str, int]]:
        most = min(settings.recorder_prefetch, _INTERACTIVE_PREFETCH)
        return [(INTERACTIVE_RESULTS_QUEUE, most), (LARGE_INTERACTIVE_RESULTS_QUEUE, _LARGE_COPIES)]

    def _take(self, delivery: Delivery) -> None:
        self._waiting.put_nowait(delivery)

    async def _record_batch(self, deliveries: Sequence[Delivery]) -> None:
        now = utc_now()
        parsed = [(delivery, parse_delivery(delivery, now=now)) for delivery in deliveries]
        reports = [report for _, each in parsed for report in each.reports]
        try:
            left = await self._record_known(reports)
        except Exception as failure:  # One of the three edges: the other recorder finds out what is wrong.
            logger.info("interactive_left", extra={"messages": len(parsed), "error": repr(failure)[:300]})
            left = range(len(reports))
        first = 0
        for delivery, each in parsed:
            places = range(first, first := first + len(each.reports))
            is_recorded = not each.error and not any(place in left for place in places)
            # Commit before ack, also of the other message.
            delivery.ack()
            if self._copies:
                self._copies.note(delivery, is_recorded=is_recorded)

    async def _record_known(self, parsed: Sequence[ParsedReport]) -> Collection[int]:
        """Record reports of jobs that are stored; return the places of all others."""
        heard = [(place, each, each.report) for place, each in enumerate(parsed) if each.report is not None]
        told = [
            each if each[2].body is None else await self._with_true_body(each)
            for each in heard
            if not each[2].asks_for_redrive
        ]
        places = range(len(parsed))
        if not told:
            return places
        recorded = await self._write(told)
        known = {
            place: report
            for place, _, report in told
            if report.job_id not in recorded.unknown_job_ids and place not in recorded.disbelieved
        }
        self._note(Recorded(recorded.transitions, frozenset()), [*known.values()])
        return frozenset(places).difference(known)


def _digest(delivery: Delivery) -> _Digest:
    return delivery.exchange, hash(delivery.body)


def _disbelieved(parsed: ParsedReport) -> ReportDisbelieved:
    named = parsed.report or parsed.unreadable
    assert named is not None
    lack = "a wrong token" if parsed.token else "no token"
    return ReportDisbelieved(f"job {named.job_id}, run {named.run}: the message has {lack}")
