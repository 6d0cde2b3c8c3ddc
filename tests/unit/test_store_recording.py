"""Tests of the choices of the recorder, which are pure: what leads a job further, and which end counts."""

from producer.store.recording import choose_advances, choose_attempts
from producer.store.rows import Standing
from shared.identity import new_id
from shared.states import JobState, position
from tests.support.factories import make_report

JOB_ID = new_id()


def test_only_reports_beyond_where_the_job_is_lead_it_further() -> None:
    here = position(run=1, attempt=2, state=JobState.RUNNING)
    standing = {JOB_ID: Standing("check", JobState.RUNNING, 1, here, 2, None, project="default")}
    late = make_report(JOB_ID, JobState.DELAYED, attempt=1)
    same = make_report(JOB_ID, JobState.RUNNING, attempt=2)
    further = make_report(JOB_ID, JobState.DELAYED, attempt=2)
    last = make_report(JOB_ID, JobState.SUCCEEDED, attempt=3)
    too_late = make_report(JOB_ID, JobState.PARKED, attempt=4)

    assert choose_advances([late, same, further, last, too_late], standing) == [further, last]


def test_the_first_end_of_an_attempt_counts_wherever_its_start_comes() -> None:
    start = make_report(JOB_ID, JobState.RUNNING)
    first_end = make_report(JOB_ID, JobState.DELAYED)
    second_end = make_report(JOB_ID, JobState.PARKED)

    assert choose_attempts([start, first_end, second_end, start]) == [first_end]
    assert choose_attempts([start, start]) == [start]
