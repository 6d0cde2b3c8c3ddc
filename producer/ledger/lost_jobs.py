"""The lost-job reconciler: sends jobs again whose message the broker has lost. Only the leader searches.

Nobody announces a queue that was deleted or purged, or a broker that was replaced by an empty one. So a job
counts as lost when it ought to have been heard of, by one of three rules:

- its queue is quiet: for a while there was nothing in which its message or a report of it could wait;
- its queue is busy and has come further: all that had entered before has left it, longer ago than an attempt
  and its report may take. Queues deliver in order (`watermarks`);
- it is silent three times as long as the first rule asks for, and its queue is seen empty once: brokers,
  ledgers or links may fail so often that nobody watches a queue for long enough.

A crash between sending and noting sends a job once more. What then runs twice is recorded once:
docs/architecture.md, "Recorded once".
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import compress
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.queue_watch import QueueWatch
from producer.ledger.relay_messages import job_message
from producer.ledger.watermarks import Markers
from producer.records import UnfinishedJob, UnfinishedPage
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
from shared.kinds.registry import BROKERED_KINDS, Lane, attempt_seconds
from shared.messages import JOB_TYPE
from shared.retry import delay_step_seconds
from shared.settings import Settings
from shared.states import UNDER_WAY, JobState

# One look at empty queues is enough for jobs that are silent so many times as long.
_LONG_SILENT = 3
# A job is lost after so many searches of the store at least.
_SEARCHES = 4
# A search rests three times as long as it took.
_REST_FACTOR = 3
# The share of the time after which a job is lost that a message and a report may be on their way, in nobody's
# queue: 20 s. A job waits for its permit for 5 s at most, and a publish for 10 s.
_ON_THE_WAY_SHARE = 1 / 6
# And the share by which the clocks of two machines may differ: 5 s.
_CLOCKS_APART_SHARE = 1 / 24
# A search of busy lanes reads no row that is younger than the watermark; each twelfth one reads all.
_COMPLETE_EVERY = 12
_REPORTS = (RECORDER_QUEUE, LARGE_RESULTS_QUEUE)

_LANES = [(kind, lane) for kind in BROKERED_KINDS for lane in Lane]
_WORK_QUEUES = [name for kind, lane in _LANES for name in lane_queues(kind, lane)]

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
        self._busy_lanes = BusyLanes(
            store=store, watch=watch, lost_after_seconds=settings.lost_after_seconds, clock=clock
        )
        self._clock = clock
        self._search_at = self._search_busy_at = clock()

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
        await self._busy_lanes.follow()
        if (began := self._clock()) >= self._search_at:
            await self._sending(self._search())
            self._search_at = self._rested(began, at_least=self._lost_after_seconds / _SEARCHES)
        if (began := self._clock()) >= self._search_busy_at:
            await self._sending(self._search_busy())
            self._search_busy_at = self._rested(began, at_least=0.0)

    def _rested(self, began: float, *, at_least: float) -> float:
        now = self._clock()
        return now + max(at_least, (now - began) * _REST_FACTOR)

    async def _sending(self, search: Coroutine[None, None, None]) -> None:
        try:
            await search
        except BrokerError as error:
            # Workers cannot publish to a broker with an alarm on either: their reports are held up.
            self._watch.forget()
            logger.warning("republish_failed", extra={"error": str(error)})

    async def _search(self) -> None:
        # One moment for the whole search: what it sends fills the queues, and must not end it.
        heard_before = utc_now() - timedelta(seconds=self._lost_after_seconds)
        await self._count(heard_before)
        paused = await self._paused_lanes()
        await self._republish_silent(_lanes_where(self._watch.quiet.are_quiet, paused), heard_before)
        silent_before = utc_now() - timedelta(seconds=self._lost_after_seconds * _LONG_SILENT)
        await self._republish_silent(_lanes_where(self._watch.are_drained, paused), silent_before)

    async def _republish_silent(self, lanes: Sequence[tuple[str, Lane]], heard_before: datetime) -> None:
        if not lanes:
            return

        def read(state: JobState, after: UUID | None) -> Awaitable[UnfinishedPage]:
            return self._store.read(
                unfinished.read_page,
                state,
                lanes,
                heard_before=heard_before,
                due_before=heard_before,
                after=after,
            )

        await self._republish(read, lambda job: entered_by(job) <= heard_before)

    async def _search_busy(self) -> None:
        silent_since = await self._busy_lanes.silent_since(await self._paused_lanes())
        if not silent_since:
            return
        created_before = self._busy_lanes.created_before(silent_since)

        def read(state: JobState, after: UUID | None) -> Awaitable[UnfinishedPage]:
            return self._store.read(
                unfinished.read_silent, state, silent_since, created_before=created_before, after=after
            )

        await self._republish(read, self._busy_lanes.has_lost)

    async def _count(self, heard_before: datetime) -> None:
        for state in UNDER_WAY:
            overdue = await self._store.read(unfinished.count_overdue, state, heard_before=heard_before)
            self._metrics.jobs_overdue.labels(state).set(overdue)

    async def _paused_lanes(self) -> list[tuple[str, Lane]]:
        pauses = (await self._store.read(queues.read_pauses)).items
        return [(kind, lane) for kind, lane in _LANES if any(pause.covers(kind, lane) for pause in pauses)]

    async def _republish(
        self,
        read: Callable[[JobState, UUID | None], Awaitable[UnfinishedPage]],
        is_lost: Callable[[UnfinishedJob], bool],
    ) -> None:
        """Send every job again that is read and lost.

        Raises:
            BrokerError: the broker did not take one; the next search goes on.
        """
        for state in UNDER_WAY:
            after: UUID | None = None
            while True:
                page = await read(state, after)
                await self._republisher.send([job for job in page.jobs if is_lost(job)])
                after = page.following
                if after is None:
                    break


def _lanes_where(
    are_empty: Callable[[Iterable[str]], bool], paused: Collection[tuple[str, Lane]]
) -> list[tuple[str, Lane]]:
    """Return the lanes whose queues are empty, by one rule or another; none while reports may wait."""
    if not are_empty(_REPORTS):
        return []
    return [lane for lane in _LANES if lane not in paused and are_empty(lane_queues(*lane))]


class BusyLanes:
    """Tells what is lost in lanes that are never quiet, by the order in which their queues deliver."""

    def __init__(
        self,
        *,
        store: RetryingStore,
        watch: QueueWatch,
        lost_after_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """Make one that has seen nothing yet."""
        self._store = store
        self._watch = watch
        self._on_the_way_seconds = lost_after_seconds * _ON_THE_WAY_SHARE
        self._clocks_apart = timedelta(seconds=lost_after_seconds * _CLOCKS_APART_SHARE)
        self._clock = clock
        self._markers = Markers()
        self._searches = 0

    async def follow(self) -> None:
        """Learn from the last look, and from jobs that were seen waiting, how far the queues have come.

        Costs two reads of some hundred rows while a queue holds messages at each look.
        """
        depths, marks = self._watch.depths, self._watch.watermarks
        if ids := self._markers.ids:
            now, at = self._clock(), utc_now()
            present = await self._store.read(unfinished.look_again, ids)
            for queue, entered in self._markers.compare(present):
                marks.note(queue, entered, now=now)
            # Reports wait in a queue, too. The latest that is recorded shows how far that has come; those of
            # the interactive lane may have come by another.
            ended = [row.finished_at for row in present if row.finished_at and row.lane is Lane.BULK]
            if ended:
                marks.note(RECORDER_QUEUE, min(max(ended), at), now=now)
        if any(depths[name].ready for name in _WORK_QUEUES if name in depths):
            self._markers.remember(await self._store.read(unfinished.newest_waiting, now=utc_now()))

    async def silent_since(self, paused: Collection[tuple[str, Lane]]) -> Mapping[tuple[str, Lane], datetime]:
        """Return, of each lane whose queues have come somewhere, since when its lost jobs are silent."""
        marks, since = self._watch.watermarks, dict[tuple[str, Lane], datetime]()
        for kind, lane in paused:
            # What workers had in hand came back, and is not taken before the end of the pause.
            marks.forget(lane_queues(kind, lane))
        heard_until = self._heard_until()
        for kind, lane in _LANES:
            seen_by = heard_until - self._on_the_way_seconds
            reached = marks.reached(lane_queues(kind, lane), seen_by=seen_by)
            if reached is not None:
                since[kind, lane] = reached - self._clocks_apart
        return since

    def created_before(self, silent_since: Mapping[tuple[str, Lane], datetime]) -> datetime | None:
        """Return from when on a search need not read jobs; None now and then, for ids that tell no time."""
        self._searches += 1
        return None if self._searches % _COMPLETE_EVERY == 0 else max(silent_since.values())

    def has_lost(self, job: UnfinishedJob) -> bool:
        """Return whether a job has left its queue, and its report must have been recorded since."""
        names = lane_queues(job.message.kind, job.message.lane)
        passed_at = self._watch.watermarks.passed_at(names, entered_by(job) + self._clocks_apart)
        if passed_at is None:
            return False
        silent_seconds = _attempt_seconds(job) + self._on_the_way_seconds
        return passed_at + silent_seconds <= self._heard_until()

    def _heard_until(self) -> float:
        """Return until when published reports have been recorded, by the clock that only goes forward."""
        now = self._clock()
        # A recorder that has taken reports records them before the next look.
        reached = self._watch.watermarks.reached(_REPORTS, seen_by=now - self._watch.pause_seconds)
        if reached is None:
            return -math.inf
        return now - max((utc_now() - reached).total_seconds(), 0.0)


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
        self._rows_put_aside = metrics.rows_put_aside.labels(type(self).__name__)
        self._tokens = tokens
        self._window = asyncio.Semaphore(settings.publish_window)

    async def send(self, jobs: Sequence[UnfinishedJob]) -> Mapping[JobState, int]:
        """Publish a message of each job, and note those that were confirmed; return how many of each state.

        Raises:
            BrokerError: some were not confirmed; the others are sent and noted.
        """
        now = utc_now()
        messages = [(job, message) for job in jobs if (message := self._message(job, now))]
        jobs = [job for job, _ in messages]
        errors = await asyncio.gather(*(self._publish(message) for _, message in messages))
        sent = list(compress(jobs, (error is None for error in errors)))
        # Confirm before note: a crash between the two sends them again, the other order might lose them.
        sent_positions = [(job.message.id, job.position) for job in sent]
        await self._store.write(unfinished.mark_sent, sent_positions, now=utc_now())
        self._note(sent)
        if failed := next((error for error in errors if error is not None), None):
            raise failed
        return Counter(job.state for job in sent)

    def _message(self, job: UnfinishedJob, now: datetime) -> Outgoing | None:
        try:
            return republished_message(job, tokens=self._tokens, now=now)
        except Exception:  # One of the three edges: a row must not hold up those beside it.
            logger.exception("row_put_aside", extra={"job_id": str(job.message.id)})
            self._rows_put_aside.inc()
            return None

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


def entered_by(job: UnfinishedJob) -> datetime:
    """Return by when the message of a job had entered its work queue, if it was not lost before."""
    match job.state:
        case JobState.RUNNING:
            # Its worker may have died at the end of the attempt: then it came back.
            return job.heard_at + timedelta(seconds=_attempt_seconds(job))
        case JobState.DELAYED if job.due_at is not None and job.due_at > job.heard_at:
            # What is sent again late takes the first step that is not too short.
            left = (job.due_at - job.heard_at).total_seconds()
            return job.heard_at + timedelta(seconds=delay_step_seconds(left))
        case _:
            return job.heard_at


def _attempt_seconds(job: UnfinishedJob) -> float:
    """Return for how long a running attempt may stay silent."""
    try:
        return attempt_seconds(job.message.kind, job.message.args)
    except ValueError:
        # Arguments that nobody can read, so no worker is at them.
        return 0.0
