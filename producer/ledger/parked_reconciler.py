"""The parked reconciler: keeps `jobs.parked` a mirror of what the store says is parked. The leader runs it.

After a redrive or a discard the old message leaves the queue. Now and then both are compared, and the queue
is mended: the store is right.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from producer.callers import wire_project
from producer.ledger.leader import Lease
from producer.ledger.metrics import LedgerMetrics
from producer.parking import ParkedFilter
from producer.records import JobRecord
from producer.run_tokens import RunTokens
from producer.store import parking
from producer.store.database import RetryingStore
from producer.store.projects import EVERY_PROJECT
from shared.broker.bundle import bodies_of, count_bodies
from shared.broker.outgoing import Outgoing
from shared.broker.parked_queue import Choice, Walk, count_parked, walk_parked
from shared.broker.publisher import Publisher
from shared.broker.topology import DEFAULT, PARKED_QUEUE
from shared.clock import utc_now
from shared.errors import BrokerError, BrokerUnavailable, MessageUndecodable
from shared.messages import (
    JOB_TYPE,
    MAX_EXPLANATION_LENGTH,
    MAX_REASON_LENGTH,
    REASON_HEADER,
    JobMessage,
    Report,
)
from shared.settings import MAX_BUNDLE_JOBS, Settings
from shared.states import JobState

PARKED_WALK: Final = "parked_walk"
"""The lease of whoever walks through `jobs.parked`: the leader, or `adopt-parked` on a command line."""
# Far above the time of one page. A walker that dies is waited for as long.
WALK_LEASE_SECONDS: Final = 60.0

_POLL_SECONDS = 0.5
# One walk serves all redrives that are pending, up to so many of some 100 bytes each.
_PENDING = 100_000
# The longer the queue, the longer a walk, whatever it removes. After one so many times its duration passes: a
# mass redrive then shares a few walks, and a single one in a short queue still takes half a second.
_REST_FACTOR = 3
# A parked message may reach its queue a moment after the recorder saw its twin. A message that is
# still missing after so many walks was taken out by somebody else.
_MAX_ROUNDS = 5
_PAGE_JOBS = 500
# A job that was recorded as parked just now may still wait for its message to reach the queue.
_SETTLED = timedelta(seconds=60)

# A parked message is known by its job and the run that was parked; one with several jobs, by all of theirs.
ParkedRun = tuple[UUID, int]
ParkedRuns = tuple[ParkedRun, ...]
Standings = Mapping[UUID, tuple[int, JobState]]

logger = logging.getLogger(__name__)


class ParkedReconciler:
    """Sweeps out the messages of jobs that have left the parking lot, and compares queue and store."""

    def __init__(
        self,
        *,
        store: RetryingStore,
        publisher: Publisher,
        lease: Lease,
        metrics: LedgerMetrics,
        settings: Settings,
        tokens: RunTokens,
    ) -> None:
        """Make a reconciler that has compared nothing yet."""
        self._store = store
        self._publisher = publisher
        self._lease = lease
        self._metrics = metrics
        self._tokens = tokens
        self._amqp_url = settings.amqp_url
        self._check_seconds = settings.parked_check_seconds
        # How often each message that a sweep should have met was missing.
        self._rounds: dict[ParkedRun, int] = {}
        # Messages that no parked job explains and that a person has to look at: unreadable, of unknown jobs.
        self._strangers = 0

    async def run(self) -> None:
        """Sweep and compare until cancelled."""
        check_at = time.monotonic() + self._check_seconds
        pause_seconds = _POLL_SECONDS
        while True:
            await asyncio.sleep(pause_seconds)
            started = time.monotonic()
            try:
                if pending := await self._store.read(parking.pending_redrives, _PENDING):
                    await self.sweep(set(pending))
                elif started >= check_at:
                    check_at = started + self._check_seconds
                    if await self.differs():
                        await self.mend()
            except BrokerError as error:
                logger.warning("parked_walk_failed", extra={"error": str(error)})
            pause_seconds = max(_POLL_SECONDS, (time.monotonic() - started) * _REST_FACTOR)

    async def sweep(self, pending: set[ParkedRun]) -> None:
        """Walk the queue, and remove the messages of runs that were redriven or discarded.

        Raises:
            BrokerUnavailable: the broker went away, or somebody else is walking; nothing is settled.
        """
        missing, seen = set(pending), set[ParkedRun]()

        async def choose(bodies: Sequence[bytes]) -> Choice:
            page = [parked_runs(body) for body in bodies]
            gone = leaving(page, await self._standing(page), seen)
            missing.difference_update(run for place in gone for run in page[place])
            return Choice(gone, is_last=not missing)

        walk = await self._walk(choose)
        self._rounds = {key: self._rounds.get(key, 0) + walk.complete for key in missing}
        settled = (pending - missing) | {key for key, rounds in self._rounds.items() if rounds >= _MAX_ROUNDS}
        await self._store.write(parking.settle_redrives, sorted(settled), now=utc_now())
        self._metrics.parked_removed.labels("sweep").inc(walk.removed)
        logger.info(
            "parked_swept", extra={"seen": walk.seen, "removed": walk.removed, "missing": len(missing)}
        )

    async def differs(self) -> bool:
        """Return whether there are more or fewer messages than parked jobs. Cheap: it counts.

        Raises:
            BrokerUnavailable: the broker did not answer.
        """
        if await self._store.read(parking.pending_redrives, 1):
            # They are swept first.
            return False
        messages = await count_parked(self._amqp_url)
        jobs = await self._store.read(parking.count_matching, ParkedFilter(), project=EVERY_PROJECT)
        return messages != jobs + self._strangers

    async def mend(self, *, settled: timedelta = _SETTLED) -> None:
        """Walk the queue: remove messages that belong to no parked job, then publish those that are missing.

        Args:
            settled: Jobs parked for less are left alone.

        Raises:
            BrokerError: the broker went away or did not take a message, or somebody else is walking; the next
                walk goes on.
        """
        recorded_before, seen, strangers = utc_now() - settled, set[ParkedRun](), 0

        async def choose(bodies: Sequence[bytes]) -> Choice:
            nonlocal strangers
            page = [parked_runs(body) for body in bodies]
            standing = await self._standing(page)
            strangers += sum(is_strange(runs, standing) for runs in page)
            return Choice(leaving(page, standing, seen))

        walk = await self._walk(choose)
        if not walk.complete:
            raise BrokerUnavailable("somebody else has begun to walk through jobs.parked")
        self._strangers = strangers
        published = await self._publish_missing(seen, recorded_before)
        self._metrics.parked_removed.labels("reconciler").inc(walk.removed)
        self._metrics.parked_republished.inc(published)
        facts = {"removed": walk.removed, "published": published, "strangers": strangers}
        logger.info("parked_reconciled", extra={"seen": walk.seen, **facts})

    async def _walk(self, choose: Callable[[Sequence[bytes]], Awaitable[Choice]]) -> Walk:
        return await walk_alone(self._amqp_url, self._lease, choose=choose)

    async def _standing(self, page: Sequence[ParkedRuns]) -> Standings:
        job_ids = {job_id for runs in page for job_id, _ in runs}
        return await self._store.read(parking.runs_of, job_ids)

    def _message(self, job: JobRecord) -> Outgoing | None:
        try:
            return _parked_message(job, self._tokens)
        except Exception:  # One of the three edges: a row must not hold up those beside it.
            logger.exception("row_put_aside", extra={"job_id": str(job.id)})
            self._metrics.rows_put_aside.labels(type(self).__name__).inc()
            return None

    async def _publish_missing(self, seen: set[ParkedRun], recorded_before: datetime) -> int:
        published, after = 0, None
        while page := await self._store.read(
            parking.parked_page, recorded_before=recorded_before, after=after, limit=_PAGE_JOBS
        ):
            after = page[-1].id
            missing = [job for job in page if (job.id, job.run) not in seen]
            messages = [message for job in missing if (message := self._message(job))]
            await asyncio.gather(*map(self._publisher.publish, messages))
            published += len(messages)
        return published


async def walk_alone(
    amqp_url: str, lease: Lease, *, choose: Callable[[Sequence[bytes]], Awaitable[Choice]]
) -> Walk:
    """Walk `jobs.parked` under a lease, because two walks would meet each other's copies.

    The walk ends early, and is not complete, when somebody else takes the lease.

    Raises:
        BrokerUnavailable: the broker went away, or somebody else is walking.
    """
    if not await lease.hold():
        raise BrokerUnavailable("a ledger is walking through jobs.parked; run this again in a minute")

    async def choose_and_renew(bodies: Sequence[bytes]) -> Choice:
        choice = await choose(bodies)
        return Choice(choice.leaving, is_last=choice.is_last or not await lease.hold())

    try:
        return await walk_parked(amqp_url, choose=choose_and_renew)
    finally:
        await lease.release()


def parked_jobs(body: bytes) -> list[JobMessage | None]:
    """Return the jobs of a message, most often one; None for each that nobody can read."""
    whole = _decoded(body)
    # A third party may have written its job in several lines.
    if whole is not None or count_bodies(body) > MAX_BUNDLE_JOBS:
        return [whole]
    return [_decoded(line) for line in bodies_of(body)]


def parked_runs(body: bytes) -> ParkedRuns:
    """Return whose message it is; nobody's when part of it cannot be read, and a person has to look at it."""
    jobs = parked_jobs(body)
    runs = tuple((job.id, job.run) for job in jobs if job is not None)
    return runs if len(runs) == len(jobs) else ()


def is_strange(runs: ParkedRuns, standing: Standings) -> bool:
    """Return whether a message is for a person to look at: unreadable, or of a job that is unknown."""
    return not runs or any(job_id not in standing for job_id, _ in runs)


def leaving(page: Sequence[ParkedRuns], standing: Standings, seen: set[ParkedRun]) -> frozenset[int]:
    """Return the places of the messages that do not belong: their job has gone on, or they are doubles.

    A message whose job the store does not know, or has not yet recorded as parked, stays. One with several
    jobs leaves as soon as all of them have ended or gone on: for those that are parked, the reconciler
    publishes messages of one job each.

    Args:
        page: Whose messages they are.
        standing: The run and state of each job that is known.
        seen: The runs met so far on this walk, alone in a message; those of this page are added.
    """
    places = set()
    for place, runs in enumerate(page):
        if len(runs) == 1:
            if runs[0] in seen or _has_gone_on(runs[0], standing):
                places.add(place)
            else:
                seen.add(runs[0])
        elif runs and all(_has_ended(run, standing) for run in runs):
            places.add(place)
    return frozenset(places)


def _has_gone_on(key: ParkedRun, standing: Standings) -> bool:
    # The first end of a run wins: a copy that was parked after another had ended is nobody's.
    return _has_ended(key, standing) and standing[key[0]] != (key[1], JobState.PARKED)


def _has_ended(key: ParkedRun, standing: Standings) -> bool:
    if (where := standing.get(key[0])) is None:
        return False
    run, state = where
    return run > key[1] or (run == key[1] and state.is_final)


def _decoded(body: bytes) -> JobMessage | None:
    try:
        return JobMessage.decode(body)
    except MessageUndecodable:
        return None


def _parked_message(job: JobRecord, tokens: RunTokens) -> Outgoing:
    message = JobMessage(
        id=job.id,
        kind=job.kind,
        lane=job.lane,
        args=dict(job.args),
        retry=job.retry,
        run=job.run,
        attempt=max(1, job.attempt),
        batch_id=job.batch_id,
        project=wire_project(job.project),
        token=tokens.of(job.id, job.run),
        # As its worker would have written it, so that a message is known for what it is wherever it goes.
        report=Report(
            job_id=job.id,
            kind=job.kind,
            run=job.run,
            attempt=max(1, job.attempt),
            state=JobState.PARKED,
            ended_at=job.finished_at,
            reason=job.reason[:MAX_REASON_LENGTH] if job.reason else None,
            explanation=job.explanation[:MAX_EXPLANATION_LENGTH] if job.explanation else None,
            worker="ledger",
        ),
    )
    # Straight to the queue: over `jobs.dead` the recorder would hear of it too.
    headers = {REASON_HEADER: job.reason} if job.reason else {}
    return Outgoing(DEFAULT, PARKED_QUEUE, message.encode(), JOB_TYPE, str(job.id), headers)
