"""The lost-job reconciler: sends jobs again whose message the broker has lost. Only the leader searches.

Nobody announces a queue that was deleted or purged, or a broker that was replaced by an empty one. So a job
counts as lost when it ought to have been heard of, and for a while there was nothing in which its message or
a report of it could wait.

A crash between sending and noting sends a job once more. What then runs twice is recorded once:
docs/architecture.md, "Recorded once".
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import compress
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.queue_watch import QueueWatch
from producer.ledger.relay_messages import job_message
from producer.records import UnfinishedJob
from producer.run_tokens import RunTokens
from producer.store import queues, unfinished
from producer.store.database import RetryingStore
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import (
    DELAY,
    JOBS,
    LARGE_RESULTS_QUEUE,
    RECORDER_QUEUE,
    delay_key,
    lane_queues,
    stored_key,
)
from shared.clock import utc_now
from shared.errors import BrokerError, MessageUnroutable
from shared.kinds.registry import KINDS, Lane, attempt_seconds
from shared.messages import JOB_TYPE
from shared.retry import delay_step_seconds
from shared.settings import Settings
from shared.states import UNDER_WAY, JobState

# A job is lost after so many searches of the store at least.
_SEARCHES = 4
# A search rests three times as long as it took.
_REST_FACTOR = 3

_LANES = [(kind, lane) for kind in KINDS for lane in Lane]

logger = logging.getLogger(__name__)


class LostJobReconciler:
    """Finds lost jobs and sends them again."""

    def __init__(
        self,
        *,
        store: RetryingStore,
        publisher: Publisher,
        watch: QueueWatch,
        metrics: LedgerMetrics,
        settings: Settings,
        tokens: RunTokens,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a reconciler that has searched nothing yet; its `clock` only goes forward."""
        self._store = store
        self._watch = watch
        self._metrics = metrics
        self._lost_after_seconds = settings.lost_after_seconds
        self._republisher = Republisher(
            store=store, publisher=publisher, metrics=metrics, settings=settings, tokens=tokens, why="lost"
        )
        self._clock = clock
        self._search_at = clock()

    async def run(self) -> None:
        """Search after looks at the queues until cancelled."""
        try:
            while True:
                try:
                    await self._watch.next_look()
                except TimeoutError:
                    # Nobody looks any more, which an alarm must see.
                    self._metrics.jobs_overdue.clear()
                else:
                    await self.check()
        finally:
            self._metrics.jobs_overdue.clear()

    async def check(self) -> None:
        """Search the store if it is time to; what was seen of the queues just now decides what is lost."""
        began = self._clock()
        if began < self._search_at:
            return
        await self._search()
        took_seconds = self._clock() - began
        pause_seconds = max(self._lost_after_seconds / _SEARCHES, took_seconds * _REST_FACTOR)
        self._search_at = self._clock() + pause_seconds

    async def _search(self) -> None:
        # One moment for the whole search: what it sends fills the queues, and must not end it.
        heard_before = utc_now() - timedelta(seconds=self._lost_after_seconds)
        await self._count(heard_before)
        if chosen := await self._searched_lanes():
            try:
                await self._republish(chosen, heard_before)
            except BrokerError as error:
                # Workers cannot publish to a broker with an alarm on either: their reports are held up.
                self._watch.quiet.forget()
                logger.warning("republish_failed", extra={"error": str(error)})

    async def _count(self, heard_before: datetime) -> None:
        for state in UNDER_WAY:
            overdue = await self._store.read(unfinished.count_overdue, state, heard_before=heard_before)
            self._metrics.jobs_overdue.labels(state).set(overdue)

    async def _searched_lanes(self) -> list[tuple[str, Lane]]:
        quiet = self._watch.quiet
        if not quiet.are_quiet([RECORDER_QUEUE, LARGE_RESULTS_QUEUE]):
            # The reports of all jobs may be in there.
            return []
        pauses = (await self._store.read(queues.read_pauses)).items
        return [
            (kind, lane)
            for kind, lane in _LANES
            if quiet.are_quiet(lane_queues(kind, lane))
            and not any(pause.covers(kind, lane) for pause in pauses)
        ]

    async def _republish(self, chosen: Collection[tuple[str, Lane]], heard_before: datetime) -> None:
        """Send every job of these kinds and lanes again that ought to have been heard of before a time.

        Raises:
            BrokerError: the broker did not take one; the next search goes on.
        """
        for state in UNDER_WAY:
            after: UUID | None = None
            while True:
                page = await self._store.read(
                    unfinished.read_page,
                    state,
                    chosen,
                    heard_before=heard_before,
                    due_before=heard_before,
                    after=after,
                )
                await self._republisher.send(_lost(page.jobs, heard_before))
                after = page.following
                if after is None:
                    break


class Republisher:
    """Sends unfinished jobs again. Two at once send them twice, which is allowed and costs work."""

    def __init__(
        self,
        *,
        store: RetryingStore,
        publisher: Publisher,
        metrics: LedgerMetrics,
        settings: Settings,
        tokens: RunTokens,
        why: str,
    ) -> None:
        """Make a republisher; `why` is what its metric says."""
        self._store = store
        self._publisher = publisher
        self._counter = metrics.jobs_republished.labels(why)
        self._why = why
        self._tokens = tokens
        self._window = asyncio.Semaphore(settings.publish_window)

    async def send(self, jobs: Sequence[UnfinishedJob]) -> Mapping[JobState, int]:
        """Publish a message of each job, and note those that were confirmed; return how many of each state.

        Raises:
            BrokerError: some were not confirmed; the others are sent and noted.
        """
        now = utc_now()
        messages = [republished_message(job, tokens=self._tokens, now=now) for job in jobs]
        errors = await asyncio.gather(*(self._publish(message) for message in messages))
        sent = list(compress(jobs, (error is None for error in errors)))
        # Confirm before note: a crash between the two sends them again, the other order might lose them.
        sent_positions = [(job.message.id, job.position) for job in sent]
        await self._store.write(unfinished.mark_sent, sent_positions, now=utc_now())
        self._note(sent)
        if failed := next((error for error in errors if error is not None), None):
            raise failed
        return Counter(job.state for job in sent)

    async def _publish(self, message: Outgoing) -> BrokerError | None:
        try:
            async with self._window:
                await self._publisher.publish(message)
        except MessageUnroutable as error:
            # A queue was deleted. A new channel declares the topology again.
            self._publisher.reset()
            return error
        except BrokerError as error:
            return error
        return None

    def _note(self, sent: Sequence[UnfinishedJob]) -> None:
        self._counter.inc(len(sent))
        for job in sent:
            facts = {"job_id": str(job.message.id), "run": job.message.run, "attempt": next_attempt(job)}
            logger.info("job_republished", extra={**facts, "state": job.state.value, "why": self._why})


def republished_message(job: UnfinishedJob, *, tokens: RunTokens, now: datetime) -> Outgoing:
    """Return the message that a job's present state asks for: to run now, or when its delay is over."""
    message, to = job_message(job.message, tokens=tokens, attempt=next_attempt(job)), job.message
    wait_seconds = _wait_seconds(job, now)
    if wait_seconds <= 0:
        return Outgoing(JOBS, stored_key(to.kind, to.lane), message.encode(), JOB_TYPE, str(to.id))
    # The recorder gets a copy, too; it knows the job, so that changes nothing.
    key = delay_key(to.kind, to.lane, delay_step_seconds(wait_seconds))
    return Outgoing(DELAY, key, message.encode(), JOB_TYPE, str(to.id))


def next_attempt(job: UnfinishedJob) -> int:
    """Return the attempt that a job waits for: the running one, else that after the last recorded.

    A deferral is recorded with the attempt before, so this is right for an attempt that was put off, too.
    """
    return max(job.attempt, 1) if job.state is JobState.RUNNING else job.attempt + 1


def _wait_seconds(job: UnfinishedJob, now: datetime) -> float:
    if job.state is not JobState.DELAYED or job.due_at is None:
        return 0.0
    return (job.due_at - now).total_seconds()


def _lost(jobs: Iterable[UnfinishedJob], heard_before: datetime) -> list[UnfinishedJob]:
    return [job for job in jobs if job.heard_at + _attempt_time(job) <= heard_before]


def _attempt_time(job: UnfinishedJob) -> timedelta:
    """Return for how long a running attempt may stay silent."""
    if job.state is not JobState.RUNNING:
        return timedelta()
    return timedelta(seconds=attempt_seconds(job.message.kind, job.message.args))
