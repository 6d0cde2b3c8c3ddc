"""An hour of a service's work, as its store would be told of it: submissions, and what workers reported.

Pure, and the same each time it is made. `bench.filling` writes it, and copies of it for the hours before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from producer.records import NewBatch, NewJob
from producer.submission import unique_key
from shared.kinds.registry import KINDS, Lane
from shared.messages import Report
from shared.outcomes import OutcomeName
from shared.states import JobState

HOUR = timedelta(hours=1)
HOSTS = 200
TEAMS = ("docs", "web", "shop", "api", "mail")
REASONS = ("http_503", "timeout", "dns_failed", "http_404", "connect_failed", "tls_invalid")
KIND_WEIGHTS = {"check": 6, "fetch": 3, "webhook": 1}
# Of a thousand; what is left has succeeded.
STATE_WEIGHTS = {
    JobState.ACCEPTED: 3,
    JobState.QUEUED: 5,
    JobState.RUNNING: 2,
    JobState.DELAYED: 5,
    JobState.PARKED: 30,
    JobState.CANCELLED: 20,
    JobState.SUCCEEDED: 935,
}
# Parts of an hour's jobs by the size of their batch; what is left came singly.
BIGGEST_PART, BIG_PART, MIDDLE_PART, SMALL_PART = 0.2, 0.3, 0.05, 0.005
MIDDLE_BATCHES, SMALL_BATCHES = 4, 20
# Of the jobs that came singly, how many of a hundred wait for a time of theirs.
SCHEDULED_PERCENT = 5
# Their time does not come while anything is measured.
SCHEDULED_AHEAD = timedelta(days=30)
PARKED_AFTER = 3


@dataclass(frozen=True, slots=True)
class Submitted:
    """One request: a batch with its jobs, or a single job without one."""

    batch: NewBatch | None
    jobs: Sequence[NewJob]


@dataclass(frozen=True, slots=True)
class Hour:
    """What was submitted in an hour, in the order of its times, and in which state each job is to be.

    `biggest` is the batch that goes on through all hours.
    """

    start: datetime
    submitted: Sequence[Submitted]
    states: dict[UUID, JobState]
    biggest: UUID


def make_hour(start: datetime, jobs: int) -> Hour:
    """Return an hour of at least 200 jobs."""
    made = _Making(start, Random(start.timestamp()))
    sizes = [int(jobs * BIGGEST_PART), int(jobs * BIG_PART)]
    sizes += [int(jobs * MIDDLE_PART)] * MIDDLE_BATCHES + [int(jobs * SMALL_PART)] * SMALL_BATCHES
    submitted = [made.batch(size, "check" if number < 2 else None) for number, size in enumerate(sizes)]
    biggest = submitted[0].batch
    assert biggest is not None
    submitted += [made.single() for _ in range(jobs - sum(sizes))]
    submitted.sort(key=lambda each: each.jobs[0].id)
    states = {job.id: made.state(job) for each in submitted for job in each.jobs}
    return Hour(start, submitted, states, biggest.id)


def reports_of(job: NewJob, state: JobState) -> Iterator[Report]:
    """Return what workers reported of a job that has come to a state: nothing before its first attempt."""
    attempts = {JobState.RUNNING: 1, JobState.DELAYED: 1, JobState.SUCCEEDED: 1, JobState.CANCELLED: 1}
    last = PARKED_AFTER if state is JobState.PARKED else attempts.get(state, 0)
    for attempt in range(1, last):
        yield _report(job, JobState.DELAYED, attempt)
    if last:
        yield _report(job, state, last)


def moved_id(job_id: UUID, by: timedelta) -> UUID:
    """Return the id that a job made so much earlier has: a UUIDv7 begins with its milliseconds."""
    return UUID(int=job_id.int - (milliseconds(by) << 80))


def first_id(at: datetime) -> UUID:
    """Return the least id that can be made at a time."""
    return UUID(int=int(at.timestamp() * 1_000) << 80)


def milliseconds(time: timedelta) -> int:
    """Return a length of time in whole milliseconds."""
    return time // timedelta(milliseconds=1)


class _Making:
    def __init__(self, start: datetime, random: Random) -> None:
        self._start = start
        self._random = random
        self._host_weights = [1 / rank for rank in range(1, HOSTS + 1)]

    def batch(self, size: int, kind: str | None) -> Submitted:
        at, kind = self._moment(), kind or self._random.choice(("check", "fetch"))
        labels = {"team": self._random.choice(TEAMS)}
        batch = NewBatch(id=self._id(at), kind=kind, created_at=at, labels=labels, project="default")
        jobs = [self._job(kind, at, labels, batch_id=batch.id, lane=Lane.BULK) for _ in range(size)]
        return Submitted(batch, sorted(jobs, key=lambda job: job.id))

    def single(self) -> Submitted:
        at = self._moment()
        kind = self._random.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))[0]
        labels = {"team": self._random.choice(TEAMS)} if self._random.random() < 0.5 else {}
        due_at = at + SCHEDULED_AHEAD if self._random.randrange(100) < SCHEDULED_PERCENT else None
        return Submitted(None, [self._job(kind, at, labels, due_at=due_at)])

    def state(self, job: NewJob) -> JobState:
        if job.due_at:
            return JobState.SCHEDULED
        return self._random.choices(list(STATE_WEIGHTS), list(STATE_WEIGHTS.values()))[0]

    def _job(
        self,
        kind: str,
        at: datetime,
        labels: dict[str, str],
        *,
        batch_id: UUID | None = None,
        lane: Lane = Lane.INTERACTIVE,
        due_at: datetime | None = None,
    ) -> NewJob:
        number = self._random.choices(range(HOSTS), self._host_weights)[0]
        host = f"site-{number}.example"
        args = {"url": f"https://{host}/section-{self._random.randrange(50)}/{self._random.randrange(10**6)}"}
        return NewJob(
            id=self._id(at),
            kind=kind,
            lane=lane,
            args=args,
            retry=KINDS[kind].retry,
            host=host,
            created_at=at,
            labels=labels,
            batch_id=batch_id,
            due_at=due_at,
            unique_key=None if batch_id else unique_key(kind, args, project="default"),
            project="default",
        )

    def _moment(self) -> datetime:
        return self._start + HOUR * self._random.random()

    def _id(self, at: datetime) -> UUID:
        return UUID(
            int=int(at.timestamp() * 1_000) << 80 | 0x7 << 76 | self._random.getrandbits(12) << 64
            | 0b10 << 62 | self._random.getrandbits(62)
        )  # fmt: skip


def _report(job: NewJob, state: JobState, attempt: int) -> Report:
    has_ended = state is not JobState.RUNNING
    has_failed = state in {JobState.DELAYED, JobState.PARKED}
    started_at = job.created_at + timedelta(seconds=5 * attempt)
    ended_at = started_at + timedelta(seconds=0.2) if has_ended else None
    # Most jobs of a host fail for the same reason.
    reason = REASONS[(len(job.args["url"]) + sum(job.host.encode())) % len(REASONS)] if has_failed else None
    return Report(
        job_id=job.id,
        kind=job.kind,
        run=1,
        attempt=attempt,
        state=state,
        started_at=started_at,
        ended_at=ended_at,
        outcome=_OUTCOMES.get(state),
        reason=reason,
        explanation=f"{job.host} did not answer as it should: {reason}." if reason else None,
        wait_seconds=4.8 if state is JobState.DELAYED else None,
        due_at=started_at + timedelta(seconds=5) if state is JobState.DELAYED else None,
        result=_result(job) if state in {JobState.SUCCEEDED, JobState.PARKED} else None,
        worker="worker-1",
    )


_OUTCOMES = {
    JobState.SUCCEEDED: OutcomeName.SUCCEEDED,
    JobState.DELAYED: OutcomeName.FAILED_TRANSIENT,
    JobState.PARKED: OutcomeName.FAILED_PERMANENT,
}


def _result(job: NewJob) -> dict[str, Any]:
    """Return a result as large as that of a check."""
    url = job.args["url"]
    timings = {
        "dns_seconds": 0.001203,
        "connect_seconds": 0.002073,
        "tls_seconds": 0.010433,
        "first_byte_seconds": 0.020475,
        "total_seconds": 0.042941,
    }
    address = {"ip": "192.0.2.17", "family": "ipv4"}
    hop = {"method": "HEAD", "url": url, "status": 200, "seconds": 0.042941, "location": None, **address}
    return {
        "verdict": "ok",
        "reason": "ok",
        "explanation": "The host answered as it should.",
        "status": 200,
        "final_url": url,
        "hops": [{**hop, "timings": timings}],
        "total_seconds": 0.043355,
        **address,
        "timings": timings,
        "redirects_to_http": False,
        "certificate": None,
        "content_type": "text/html",
        "bytes": 20_480,
        "title": None,
        "assertions": [],
    }
