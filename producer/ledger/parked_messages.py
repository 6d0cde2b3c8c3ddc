"""Which messages of `jobs.parked` belong there, judged by the store. Pure."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from shared.broker.bundle import bodies_of
from shared.errors import MessageUndecodable
from shared.messages import JobMessage
from shared.states import JobState

# A parked message is known by its job and the run that was parked; one with several jobs, by all of theirs.
ParkedRun = tuple[UUID, int]
ParkedRuns = tuple[ParkedRun, ...]
Standings = Mapping[UUID, tuple[int, JobState]]


def parked_jobs(body: bytes) -> list[JobMessage | None]:
    """Return the jobs of a message, most often one; None for each that nobody can read."""
    whole = _decoded(body)
    # A third party may have written its job in several lines.
    return [whole] if whole is not None else [_decoded(line) for line in bodies_of(body)]


def parked_runs(body: bytes) -> ParkedRuns:
    """Return whose message it is; nobody's when all of it cannot be read, and a person has to look at it."""
    jobs = parked_jobs(body)
    runs = tuple((job.id, job.run) for job in jobs if job is not None)
    return runs if len(runs) == len(jobs) else ()


def is_strange(runs: ParkedRuns, standing: Standings) -> bool:
    """Return whether a message is for a person to look at: unreadable, or of a job that is unknown."""
    return not runs or any(job_id not in standing for job_id, _ in runs)


def leaving(page: Sequence[ParkedRuns], standing: Standings, seen: set[ParkedRun]) -> frozenset[int]:
    """Return the places of the messages that do not belong: their job has gone on, or they are doubles.

    A message whose job the store does not know, or has not yet recorded as parked, stays. One with several
    jobs leaves as soon as all of them have ended or gone on: for what is parked of it, the reconciler
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
