"""Which messages of `jobs.parked` belong there, judged by the store. Pure."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from shared.errors import MessageUndecodable
from shared.messages import JobMessage
from shared.states import JobState

# A parked message is known by its job and the run that was parked.
ParkedRun = tuple[UUID, int]


def parked_run(body: bytes) -> ParkedRun | None:
    """Return whose message it is; None for one that nobody can read, which a person has to look at."""
    try:
        job = JobMessage.decode(body)
    except MessageUndecodable:
        return None
    return job.id, job.run


def leaving(
    page: Sequence[ParkedRun | None],
    standing: Mapping[UUID, tuple[int, JobState]],
    seen: set[ParkedRun],
) -> frozenset[int]:
    """Return the places of the messages that do not belong: their job has gone on, or they are doubles.

    A message whose job the store does not know, or has not yet recorded as parked, stays.

    Args:
        page: Whose messages they are.
        standing: The run and state of each job that is known.
        seen: The runs met so far on this walk; those of this page are added.
    """
    places = set()
    for place, key in enumerate(page):
        if key is None:
            continue
        if key in seen or _has_gone_on(key, standing.get(key[0])):
            places.add(place)
        else:
            seen.add(key)
    return frozenset(places)


def _has_gone_on(key: ParkedRun, where: tuple[int, JobState] | None) -> bool:
    if where is None:
        return False
    run, state = where
    # The first end of a run wins: a copy that was parked after another had ended is nobody's.
    return run > key[1] or (run == key[1] and state.is_final and state is not JobState.PARKED)
