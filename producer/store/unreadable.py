"""Park jobs whose message a worker could not read, such as one written by a newer version.

The message says only whose it is, and anyone may say that. So no job that has ended, and none that was never
published, is touched. No attempt was made.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from producer.records import Transition, UnreadableJob
from producer.store.counters import Move, count_moves
from producer.store.events import announce_outcomes
from producer.store.locking import Standing, callback_urls, lock_jobs
from producer.store.schema import jobs
from shared.events import JobEnded
from shared.states import UNDER_WAY, JobState, position

MESSAGE_UNDECODABLE: Final = "message_undecodable"

# A fast worker may be ahead of the relay's mark.
_PUBLISHED = frozenset({JobState.ACCEPTED, *UNDER_WAY})


def park_unreadable(
    connection: sa.Connection, unreadable: Iterable[UnreadableJob], *, now: datetime
) -> list[Transition]:
    """Park those of the jobs that are on their way, in the run that they are in; return what changed."""
    told = {each.job_id: each for each in unreadable}
    standing = {
        job_id: place for job_id, place in lock_jobs(connection, told).items() if place.state in _PUBLISHED
    }
    for job_id in sorted(standing):
        row = _parked(standing[job_id], told[job_id], now)
        connection.execute(jobs.update().where(jobs.c.id == job_id).values(row))
    moves = [Move(place.batch_id, place.state, JobState.PARKED) for place in standing.values()]
    count_moves(connection, moves, now=now)
    ended = [_ended(place, told[job_id], now) for job_id, place in standing.items()]
    announce_outcomes(connection, ended, callback_urls(standing), now=now)
    return [
        Transition(job_id, place.kind, place.run, place.attempt, JobState.PARKED, MESSAGE_UNDECODABLE)
        for job_id, place in standing.items()
    ]


def _parked(place: Standing, told: UnreadableJob, now: datetime) -> dict[str, object]:
    return {
        "state": JobState.PARKED.value,
        "position": position(run=place.run, attempt=0, state=JobState.PARKED),
        "reason": MESSAGE_UNDECODABLE,
        "explanation": told.explanation,
        "due_at": None,
        "claimed_until": None,
        "finished_at": now,
        "updated_at": now,
    }


def _ended(place: Standing, told: UnreadableJob, now: datetime) -> JobEnded:
    return JobEnded(
        job_id=told.job_id,
        kind=place.kind,
        run=place.run,
        state=JobState.PARKED,
        attempt=place.attempt,
        reason=MESSAGE_UNDECODABLE,
        explanation=told.explanation,
        batch_id=place.batch_id,
        finished_at=now,
    )
