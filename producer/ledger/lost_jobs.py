"""The lost-job reconciler: sends jobs again whose message the broker has lost.

Nobody tells of a queue that was deleted or purged, or of a broker that was replaced by an empty one. So a
job is taken for lost when it ought to have been heard of, and there has been nothing for a while in which
its message or a report of it could wait.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.patience import until_stored
from producer.ledger.quiet_queues import QuietQueues
from producer.ledger.republisher import Republisher
from producer.ledger.turns import Turns
from producer.records import UnfinishedJob
from producer.store import queues as store_queues
from producer.store import unfinished
from producer.store.database import Database
from shared.broker.publisher import Publisher
from shared.broker.queue_depths import Look, keep_looking
from shared.broker.topology import LARGE_RESULTS_QUEUE, RECORDER_QUEUE, lane_queues, queues
from shared.clock import utc_now
from shared.errors import BrokerError
from shared.kinds.registry import KINDS, Lane, attempt_seconds
from shared.settings import Settings
from shared.states import UNDER_WAY, JobState

_LOOK_SECONDS = 5.0
# So many looks, and so many searches of the store, in the time after which a job is lost.
_LOOKS = 8
_SEARCHES = 4
# A search rests three times as long as it took.
_REST_FACTOR = 3

_LANES = [(kind, lane) for kind in KINDS for lane in Lane]
# Streams tell workers what they must not do; they are not consumed, and no job waits in one.
_QUEUES = [spec.name for spec in queues(KINDS) if spec.type == "quorum"]

logger = logging.getLogger(__name__)


class LostJobReconciler:
    """Finds lost jobs and sends them again. One ledger at a time."""

    def __init__(
        self,
        *,
        store: Database,
        publisher: Publisher,
        turns: Turns,
        metrics: LedgerMetrics,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a reconciler that has seen nothing yet; its `clock` only goes forward."""
        self._store = store
        self._turns = turns
        self._metrics = metrics
        self._amqp_url = settings.amqp_url
        self._lost_after_seconds = settings.lost_after_seconds
        self._republisher = Republisher(
            store=store, publisher=publisher, metrics=metrics, settings=settings, why="lost"
        )
        self._quiet = QuietQueues(settings.lost_after_seconds)
        self._clock = clock
        self._search_at = clock()

    async def run(self) -> None:
        """Look until cancelled. What was seen on a connection that is lost counts no more."""
        await keep_looking(self._amqp_url, name="retriever ledger lost", queues=_QUEUES, use=self._watch)

    async def _watch(self, look: Look) -> None:
        self._quiet.forget()
        try:
            while True:
                await self.check(look)
                await asyncio.sleep(min(_LOOK_SECONDS, self._lost_after_seconds / _LOOKS))
        finally:
            # Nobody looks any more, which an alarm must see.
            self._metrics.jobs_overdue.clear()

    async def check(self, look: Look) -> None:
        """Look at the queues once, if it is our turn, and search the store if it is time to."""
        if not await self._turns.take():
            # Whoever has the turn does the counting.
            self._quiet.forget()
            self._metrics.jobs_overdue.clear()
            return
        ready = {depth.name: depth.ready for depth in await look()}
        # One that is missing is empty; the declarer sees to it.
        now = self._clock()
        self._quiet.note({name: ready.get(name, 0) for name in _QUEUES}, now=now)
        if now < self._search_at:
            return
        await self._search()
        took_seconds = self._clock() - now
        pause_seconds = max(self._lost_after_seconds / _SEARCHES, took_seconds * _REST_FACTOR)
        self._search_at = self._clock() + pause_seconds

    async def _search(self) -> None:
        # One moment for the whole search: what it sends fills the queues, and must not end it.
        heard_before = utc_now() - timedelta(seconds=self._lost_after_seconds)
        await self._count(heard_before)
        if chosen := await self._searched_lanes():
            try:
                await self.republish(chosen, heard_before=heard_before)
            except BrokerError as error:
                # Workers cannot publish to a broker with an alarm on either: their reports are held up.
                self._quiet.forget()
                logger.warning("republish_failed", extra={"error": str(error)})

    async def republish(self, chosen: Collection[tuple[str, Lane]], *, heard_before: datetime) -> None:
        """Send every job of these kinds and lanes again that ought to have been heard of before a time.

        Raises:
            BrokerError: the broker did not take one; the next search goes on.
        """
        for state in UNDER_WAY:
            after: UUID | None = None
            while True:
                find = partial(
                    self._store.read,
                    unfinished.read_page,
                    state,
                    chosen,
                    heard_before=heard_before,
                    due_before=heard_before,
                    after=after,
                )
                page = await until_stored(find)
                await self._republisher.send(_lost(page.jobs, heard_before))
                after = page.following
                if not await self._turns.take():
                    return
                if after is None:
                    break

    async def _searched_lanes(self) -> list[tuple[str, Lane]]:
        if not self._quiet.are_quiet([RECORDER_QUEUE, LARGE_RESULTS_QUEUE]):
            # The reports of all jobs may be in there.
            return []
        pauses = (await until_stored(partial(self._store.read, store_queues.read_pauses))).items
        return [
            (kind, lane)
            for kind, lane in _LANES
            if self._quiet.are_quiet(lane_queues(kind, lane))
            and not any(pause.covers(kind, lane) for pause in pauses)
        ]

    async def _count(self, heard_before: datetime) -> None:
        for state in UNDER_WAY:
            count = partial(self._store.read, unfinished.count_overdue, state, heard_before=heard_before)
            self._metrics.jobs_overdue.labels(state).set(await until_stored(count))


def _lost(jobs: Iterable[UnfinishedJob], heard_before: datetime) -> list[UnfinishedJob]:
    return [job for job in jobs if job.heard_at + _attempt_time(job) <= heard_before]


def _attempt_time(job: UnfinishedJob) -> timedelta:
    """Return for how long an attempt that is being made need not be heard of."""
    if job.state is not JobState.RUNNING:
        return timedelta()
    return timedelta(seconds=attempt_seconds(job.message.kind, job.message.args))
