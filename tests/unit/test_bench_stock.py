"""Tests of `bench.stock` and `bench.questions`."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from urllib.parse import parse_qs, urlsplit

from bench.questions import QUESTIONS, Asker
from bench.stock import HOUR, first_id, make_hour, moved_id, reports_of
from shared.states import JobState

START = datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_an_hour_has_all_jobs_in_the_order_of_their_ids_and_is_the_same_each_time() -> None:
    hour = make_hour(START, 1_000)

    jobs = [job for each in hour.submitted for job in each.jobs]
    assert len(jobs) == len({job.id for job in jobs}) == len(hour.states) == 1_000
    assert all(first_id(START) <= job.id < first_id(START + HOUR) and job.id.version == 7 for job in jobs)
    assert all(START <= job.created_at < START + HOUR for job in jobs)
    assert {job.batch_id for job in jobs} == {None} | {each.batch.id for each in hour.submitted if each.batch}
    assert set(hour.states.values()) == set(JobState)
    assert hour == make_hour(START, 1_000)


def test_the_reports_of_a_job_end_in_its_state() -> None:
    hour = make_hour(START, 1_000)
    reported: Counter[tuple[JobState, int]] = Counter()

    for job in (job for each in hour.submitted for job in each.jobs):
        reports = list(reports_of(job, hour.states[job.id]))
        reported[hour.states[job.id], len(reports)] += 1
        assert not reports or reports[-1].state is hour.states[job.id]
        assert [report.attempt for report in reports] == list(range(1, len(reports) + 1))

    assert {(JobState.QUEUED, 0), (JobState.SUCCEEDED, 1), (JobState.PARKED, 3)} <= reported.keys()


def test_a_moved_id_is_that_of_a_job_made_so_much_earlier() -> None:
    job_id = first_id(START + HOUR)

    assert moved_id(job_id, HOUR) == first_id(START)
    assert moved_id(job_id, timedelta(0)) == job_id


def test_each_question_is_asked_with_other_arguments_but_those_that_have_none() -> None:
    asker = Asker(Random(7), make_hour(START, 1_000), hours=10)

    asked = {name: {question(asker) for _ in range(200)} for name, question in QUESTIONS.items()}

    without = {"batches", "jobs, newest", "parked groups", "metrics"}
    assert {name for name, paths in asked.items() if len(paths) == 1} == without
    times = [parse_qs(urlsplit(path).query) for path in asked["jobs by time"]]
    assert all(each["created_after"] < each["created_before"] for each in times)
