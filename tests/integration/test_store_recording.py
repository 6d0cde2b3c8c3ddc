"""What the recorder may count on: reports late, doubled, out of order, of older runs or of nobody."""

import random
import threading
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from producer.records import AttemptRecord, NewJob
from producer.store import outbox, parking, queries, recording, submissions
from producer.store.database import Database
from shared.identity import new_id
from shared.messages import Report
from shared.outcomes import OutcomeName
from shared.states import JobState
from tests.support.factories import NOON, make_deferral, make_job, make_report

LATER = NOON + timedelta(minutes=1)


@pytest.fixture
def job(store: Database) -> NewJob:
    """Return a job that is stored and queued."""
    job = make_job()
    store.write(submissions.insert_jobs, [job])
    store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)
    return job


def test_a_success_is_recorded_with_its_attempt_and_result(store: Database, job: NewJob) -> None:
    result = {"body": "nul \0 lone \ud800 😀"}
    report = make_report(job.id, JobState.SUCCEEDED, reason="redirected").model_copy(
        update={"result": result}
    )

    recorded = store.write(recording.record_reports, [report], now=LATER)

    stored = store.read(queries.get_job, job.id, project=None)
    assert [(t.job_id, t.kind, t.state, t.reason) for t in recorded.transitions] == [
        (job.id, "check", JobState.SUCCEEDED, None)
    ]
    assert (stored.state, stored.attempt, stored.reason, stored.explanation) == (
        JobState.SUCCEEDED,
        1,
        None,
        None,
    )
    assert (stored.result, stored.finished_at) == (result, NOON + timedelta(seconds=1))
    ended_at = NOON + timedelta(seconds=1)
    assert stored.attempts == [
        AttemptRecord(1, 1, NOON, ended_at, OutcomeName.SUCCEEDED, "redirected", None, "worker-1")
    ]


def test_a_retry_is_recorded_with_its_wait_and_its_end_is_not_the_job_s(store: Database, job: NewJob) -> None:
    store.write(recording.record_reports, [make_report(job.id, JobState.DELAYED)], now=LATER)

    stored = store.read(queries.get_job, job.id, project=None)
    assert (stored.state, stored.reason, stored.finished_at) == (JobState.DELAYED, "http_503", None)
    assert (stored.explanation, stored.due_at) == ("The server answered 503.", NOON + timedelta(seconds=6))
    assert stored.attempts[0].wait_seconds == 5.0


def test_a_running_attempt_has_no_end_until_its_end_is_reported(store: Database, job: NewJob) -> None:
    store.write(recording.record_reports, [make_report(job.id, JobState.RUNNING, worker="first")], now=NOON)
    open_attempt = store.read(queries.get_job, job.id, project=None).attempts[0]

    store.write(recording.record_reports, [make_report(job.id, JobState.PARKED)], now=NOON)

    assert (open_attempt.ended_at, open_attempt.outcome) == (None, None)
    (attempt,) = store.read(queries.get_job, job.id, project=None).attempts
    assert attempt.outcome is OutcomeName.FAILED_PERMANENT
    assert attempt.ended_at == NOON + timedelta(seconds=1)


def test_a_late_running_report_changes_nothing(store: Database, job: NewJob) -> None:
    store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED)], now=NOON)
    before = store.read(queries.get_job, job.id, project=None)

    recorded = store.write(recording.record_reports, [make_report(job.id, JobState.RUNNING)], now=LATER)

    assert recorded.transitions == []
    assert store.read(queries.get_job, job.id, project=None) == before


def test_a_duplicate_report_changes_nothing(store: Database, job: NewJob) -> None:
    report = make_report(job.id, JobState.DELAYED)
    store.write(recording.record_reports, [report], now=NOON)
    before = store.read(queries.get_job, job.id, project=None)

    recorded = store.write(recording.record_reports, [report, report], now=LATER)

    assert recorded.transitions == []
    assert store.read(queries.get_job, job.id, project=None) == before


def test_a_deferral_is_shown_and_is_no_attempt(store: Database, job: NewJob) -> None:
    recorded = store.write(recording.record_reports, [make_deferral(job.id, seconds=5)], now=LATER)

    stored = store.read(queries.get_job, job.id, project=None)
    assert [(t.state, t.attempt, t.reason) for t in recorded.transitions] == [
        (JobState.DELAYED, 0, "host_busy")
    ]
    assert (stored.state, stored.attempt, stored.attempts) == (JobState.DELAYED, 0, [])
    assert (stored.reason, stored.due_at) == ("host_busy", NOON + timedelta(seconds=5))


@pytest.mark.parametrize("together", [True, False])
def test_a_later_deferral_renews_the_time_and_an_earlier_one_does_not(
    store: Database, job: NewJob, *, together: bool
) -> None:
    reports = [make_deferral(job.id, seconds=seconds) for seconds in (5, 9, 7, 9, 5)]

    calls = [reports] if together else [[report] for report in reports]
    transitions = [
        t for call in calls for t in store.write(recording.record_reports, call, now=LATER).transitions
    ]

    assert len(transitions) == 1
    assert store.read(queries.get_job, job.id, project=None).due_at == NOON + timedelta(seconds=9)


def test_a_deferral_before_a_retry_says_so_and_keeps_what_the_attempt_saw(
    store: Database, job: NewJob
) -> None:
    failed = make_report(job.id, JobState.DELAYED, result={"verdict": "down"})
    store.write(recording.record_reports, [failed, make_deferral(job.id, attempt=1, seconds=60)], now=LATER)

    stored = store.read(queries.get_job, job.id, project=None)
    assert (stored.state, stored.attempt, stored.reason) == (JobState.DELAYED, 1, "host_busy")
    assert (stored.result, stored.due_at) == ({"verdict": "down"}, NOON + timedelta(seconds=60))
    assert [attempt.reason for attempt in stored.attempts] == ["http_503"]


def test_a_deferral_that_comes_late_changes_nothing(store: Database, job: NewJob) -> None:
    store.write(recording.record_reports, [make_report(job.id, JobState.RUNNING)], now=LATER)

    store.write(recording.record_reports, [make_deferral(job.id, seconds=600)], now=LATER)

    stored = store.read(queries.get_job, job.id, project=None)
    assert (stored.state, stored.reason, stored.due_at) == (JobState.RUNNING, None, None)


def test_only_a_deferral_may_come_before_the_first_attempt(store: Database, job: NewJob) -> None:
    store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED, attempt=0)], now=LATER)

    assert store.read(queries.get_job, job.id, project=None).state is JobState.QUEUED


def test_the_first_final_state_of_a_run_wins(store: Database, job: NewJob) -> None:
    store.write(
        recording.record_reports, [make_report(job.id, JobState.SUCCEEDED, result={"ok": True})], now=NOON
    )

    recorded = store.write(
        recording.record_reports,
        [make_report(job.id, JobState.PARKED), make_report(job.id, JobState.PARKED, attempt=2)],
        now=LATER,
    )

    stored = store.read(queries.get_job, job.id, project=None)
    assert recorded.transitions == []
    assert (stored.state, stored.result, stored.reason) == (JobState.SUCCEEDED, {"ok": True}, None)
    assert [attempt.outcome for attempt in stored.attempts] == [
        OutcomeName.SUCCEEDED,
        OutcomeName.FAILED_PERMANENT,
    ]


def test_reports_of_one_job_in_one_call_are_taken_in_their_order(store: Database, job: NewJob) -> None:
    recorded = store.write(
        recording.record_reports,
        [
            make_report(job.id, JobState.RUNNING),
            make_report(job.id, JobState.DELAYED),
            make_report(job.id, JobState.RUNNING, attempt=2),
            make_report(job.id, JobState.SUCCEEDED, attempt=2),
        ],
        now=NOON,
    )

    assert [(made.state, made.attempt) for made in recorded.transitions] == [
        (JobState.RUNNING, 1),
        (JobState.DELAYED, 1),
        (JobState.RUNNING, 2),
        (JobState.SUCCEEDED, 2),
    ]
    assert [attempt.number for attempt in store.read(queries.get_job, job.id, project=None).attempts] == [
        1,
        2,
    ]


@pytest.mark.parametrize("together", [True, False])
def test_in_any_order_reports_only_move_a_job_forward(store: Database, *, together: bool) -> None:
    chance = random.Random(7)
    jobs = [make_job() for _ in range(10)]
    store.write(submissions.insert_jobs, jobs)
    reports = [report for job in jobs for report in _story(job.id)] * 2
    chance.shuffle(reports)
    calls = [reports] if together else [reports[at : at + 7] for at in range(0, len(reports), 7)]

    transitions = [
        made for call in calls for made in store.write(recording.record_reports, call, now=NOON).transitions
    ]

    for job in jobs:
        places = [(t.attempt, t.state.is_final, t.state) for t in transitions if t.job_id == job.id]
        stored = store.read(queries.get_job, job.id, project=None)
        assert places == sorted(places)
        assert places[-1] == (3, True, JobState.SUCCEEDED)
        assert (stored.state, stored.attempt) == (JobState.SUCCEEDED, 3)
        assert [(a.number, a.outcome) for a in stored.attempts] == [
            (1, OutcomeName.FAILED_TRANSIENT),
            (2, OutcomeName.FAILED_TRANSIENT),
            (3, OutcomeName.SUCCEEDED),
        ]


def test_reports_of_unknown_jobs_are_told_and_leave_nothing(store: Database, job: NewJob) -> None:
    stranger = new_id()

    recorded = store.write(
        recording.record_reports,
        [make_report(stranger, JobState.SUCCEEDED), make_report(job.id, JobState.RUNNING)],
        now=NOON,
    )

    assert recorded.unknown_job_ids == {stranger}
    assert [made.job_id for made in recorded.transitions] == [job.id]


def test_a_report_of_an_older_run_changes_only_its_attempt(store: Database, job: NewJob) -> None:
    store.write(recording.record_reports, [make_report(job.id, JobState.PARKED)], now=NOON)
    store.write(parking.redrive, job.id, now=NOON, project=None)

    recorded = store.write(
        recording.record_reports,
        [make_report(job.id, JobState.SUCCEEDED, attempt=2, result={"old": 1})],
        now=NOON,
    )

    stored = store.read(queries.get_job, job.id, project=None)
    assert recorded.transitions == []
    assert (stored.state, stored.run, stored.result) == (JobState.ACCEPTED, 2, None)
    assert [(attempt.run, attempt.number) for attempt in stored.attempts] == [(1, 1), (1, 2)]


def test_no_report_can_stop_the_recorder(store: Database, job: NewJob) -> None:
    extremes: list[dict[str, object]] = [
        {"attempt": 10**12},
        {"run": 10**12},
        {"result": {"nan": float("nan"), "deep": [float("inf"), {"x": float("-inf")}]}},
        {"explanation": "nul \0", "reason": "\ud800", "worker": "\0"},
        {"started_at": datetime.max, "ended_at": datetime.min, "attempt": 2},  # noqa: DTZ901
        {"started_at": datetime(2026, 1, 1), "attempt": 3, "ended_at": None},  # noqa: DTZ001
        {"wait_seconds": float("inf"), "attempt": 4},
    ]
    plain = make_report(job.id, JobState.DELAYED)
    good = make_job()
    store.write(submissions.insert_jobs, [good])

    recorded = store.write(
        recording.record_reports,
        [
            *(plain.model_copy(update=extreme) for extreme in extremes),
            make_report(good.id, JobState.SUCCEEDED),
        ],
        now=LATER,
    )

    attempts = {
        attempt.number: attempt for attempt in store.read(queries.get_job, job.id, project=None).attempts
    }
    assert recorded.transitions[-1].job_id == good.id
    assert set(attempts) == {1, 2, 3, 4}
    assert attempts[3].started_at.isoformat() == "2026-01-01T00:00:00+00:00"
    assert attempts[3].ended_at == LATER


def test_a_number_that_json_does_not_know_is_stored_as_null(store: Database, job: NewJob) -> None:
    store.write(
        recording.record_reports,
        [make_report(job.id, JobState.SUCCEEDED, result={"x": [float("nan"), 1.0]})],
        now=NOON,
    )

    assert store.read(queries.get_job, job.id, project=None).result == {"x": [None, 1.0]}


def test_nothing_is_recorded_of_no_reports(store: Database) -> None:
    recorded = store.write(recording.record_reports, [], now=NOON)

    assert (recorded.transitions, recorded.unknown_job_ids) == ([], frozenset())


def test_two_recorders_at_once_record_each_transition_once(store: Database, database_url: str) -> None:
    jobs = [make_job() for _ in range(40)]
    store.write(submissions.insert_jobs, jobs)
    reports = [report for job in jobs for report in _story(job.id)]
    other = Database.open(database_url)
    made: list[tuple[UUID, int, JobState]] = []

    def record(recorder: Database, seed: int) -> None:
        mine = list(reports)
        random.Random(seed).shuffle(mine)
        for at in range(0, len(mine), 20):
            recorded = recorder.write(recording.record_reports, mine[at : at + 20], now=NOON)
            made.extend((t.job_id, t.attempt, t.state) for t in recorded.transitions)

    threads = [threading.Thread(target=record, args=pair) for pair in ((store, 1), (other, 2), (store, 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()

    assert len(made) == len(set(made))
    assert sum(state is JobState.SUCCEEDED for _, _, state in made) == len(jobs)
    assert all(len(store.read(queries.get_job, job.id, project=None).attempts) == 3 for job in jobs)


def _story(job_id: UUID) -> list[Report]:
    return [
        make_report(job_id, JobState.RUNNING),
        make_report(job_id, JobState.DELAYED),
        make_report(job_id, JobState.RUNNING, attempt=2),
        make_report(job_id, JobState.DELAYED, attempt=2),
        make_report(job_id, JobState.RUNNING, attempt=3),
        make_report(job_id, JobState.SUCCEEDED, attempt=3),
    ]
