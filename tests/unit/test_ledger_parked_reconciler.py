"""Which messages of the parking queue belong there: those of one job, and those that carry several."""

from uuid import UUID

import pytest

from producer.ledger.parked_reconciler import (
    ParkedRun,
    is_strange,
    leaving,
    parked_jobs,
    parked_runs,
)
from shared.broker.bundle import bundled
from shared.identity import new_id
from shared.messages import JobMessage
from shared.states import JobState

FIRST, SECOND, THIRD = (new_id() for _ in range(3))
PARKED, QUEUED, DELAYED, SUCCEEDED = JobState.PARKED, JobState.QUEUED, JobState.DELAYED, JobState.SUCCEEDED


def body(job_id: UUID, run: int = 1) -> bytes:
    return JobMessage(id=job_id, kind="check", args={}, run=run).encode()


def leave(
    *bodies: bytes, seen: set[ParkedRun] | None = None, **standing: tuple[int, JobState]
) -> frozenset[int]:
    """Return the places of the bodies that leave, as the first, second and third job stand."""
    ids = {"first": FIRST, "second": SECOND, "third": THIRD}
    page = [parked_runs(each) for each in bodies]
    by_id = {ids[name]: where for name, where in standing.items()}
    return leaving(page, by_id, set() if seen is None else seen)


def test_a_message_of_one_job_stays_once_until_its_job_goes_on() -> None:
    assert leave(body(FIRST), body(FIRST), first=(1, PARKED)) == {1}
    assert leave(body(FIRST), first=(1, DELAYED)) == frozenset()
    assert leave(body(FIRST), first=(1, SUCCEEDED)) == {0}
    assert leave(body(FIRST), first=(2, PARKED)) == {0}
    assert leave(body(FIRST)) == frozenset()


@pytest.mark.parametrize("second", [(1, PARKED), (1, SUCCEEDED), (2, QUEUED)])
def test_a_message_with_several_jobs_leaves_when_all_of_them_have_ended(second: tuple[int, JobState]) -> None:
    message, seen = bundled([body(FIRST), body(SECOND)]), set[ParkedRun]()

    assert leave(message, message, seen=seen, first=(1, PARKED), second=second) == {0, 1}
    # So that those that are parked get a message of their own.
    assert seen == set()


@pytest.mark.parametrize("second", [(1, QUEUED), (1, DELAYED), None])
def test_a_message_with_several_jobs_stays_while_one_of_them_is_under_way_or_unknown(
    second: tuple[int, JobState] | None,
) -> None:
    message, seen = bundled([body(FIRST), body(SECOND)]), set[ParkedRun]()
    standing = {"first": (1, PARKED)} | ({"second": second} if second else {})

    assert leave(message, body(FIRST), seen=seen, **standing) == frozenset()
    assert seen == {(FIRST, 1)}


def test_a_message_of_which_a_line_cannot_be_read_is_for_a_person_but_its_jobs_are_known() -> None:
    message = bundled([body(FIRST), b"garbage", body(SECOND)])

    assert parked_runs(message) == () and is_strange((), {})
    assert leave(message, first=(1, SUCCEEDED), second=(1, SUCCEEDED)) == frozenset()
    assert [job.id for job in parked_jobs(message) if job] == [FIRST, SECOND]


def test_a_message_is_strange_when_one_of_its_jobs_is_unknown() -> None:
    runs = parked_runs(bundled([body(FIRST), body(SECOND, run=3)]))

    assert runs == ((FIRST, 1), (SECOND, 3))
    assert is_strange(runs, {FIRST: (1, PARKED)})
    assert not is_strange(runs, {FIRST: (1, PARKED), SECOND: (1, QUEUED)})


def test_one_job_in_several_lines_is_one_job() -> None:
    job = JobMessage(id=THIRD, kind="check", args={})

    assert parked_runs(job.model_dump_json(indent=2).encode()) == ((THIRD, 1),)
