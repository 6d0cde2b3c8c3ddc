"""Output of attempts in the store, while they run and after: late, twice, in any order, on both stores."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from producer.records import JobOutput
from producer.store import endings, outbox, outputs, parking, recording, retention, submissions
from producer.store.database import Database
from producer.store.schema import outputs as outputs_table
from shared.errors import JobNotFound, OutputNotFound
from shared.identity import new_id
from shared.kinds.command import OutputSnapshot, OutputText
from shared.messages import Report
from shared.outcomes import DELIVERY_LIMIT
from shared.states import JobState
from tests.support.factories import NOON, make_job, make_report

LATER = NOON + timedelta(minutes=1)
ENDED_AT = NOON + timedelta(seconds=1)


def text(said: str) -> OutputText:
    return OutputText(text=said, bytes=len(said.encode()))


def queued(store: Database, kind: str = "command") -> UUID:
    job = make_job(kind=kind, args={"argv": ["make"]}, host="")
    store.write(submissions.insert_jobs, [job])
    store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)
    return job.id


def written(
    job_id: UUID, said: str, *, sequence: int = 1, attempt: int = 1, run: int = 1, kind: str = "command"
) -> Report:
    """Return the report of a running attempt that has written something."""
    report = make_report(job_id, JobState.RUNNING, attempt=attempt, run=run, kind=kind)
    output = OutputSnapshot(sequence=sequence, stdout=text(said), stderr=text("!"))
    return report.model_copy(update={"output": output})


def ended(job_id: UUID, state: JobState, said: str | None, *, attempt: int = 1, run: int = 1) -> Report:
    """Return the report of an attempt that has ended, with all its output or without a result."""
    result: dict[str, Any] = {"exit_code": 0, "seconds": 1.0, "stdout": text(said or "").model_dump()}
    return make_report(
        job_id, state, attempt=attempt, run=run, kind="command", result=result if said is not None else None
    )


def record(store: Database, *reports: Report, unproven: Sequence[int] = ()) -> None:
    store.write(recording.record_reports, reports, now=LATER, unproven=frozenset(unproven))


def output(store: Database, job_id: UUID) -> JobOutput:
    return store.read(outputs.find_output, job_id, project=None)


def snapshots(store: Database) -> int:
    with store.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(outputs_table)) or 0


def test_a_job_that_has_not_begun_has_an_empty_output(store: Database) -> None:
    job_id = queued(store)

    assert output(store, job_id) == JobOutput(run=1, attempt=0, is_running=False)


def test_what_a_running_attempt_has_written_is_seen(store: Database) -> None:
    job_id = queued(store)
    record(store, make_report(job_id, JobState.RUNNING, kind="command"))
    assert output(store, job_id) == JobOutput(run=1, attempt=1, is_running=True)

    record(store, written(job_id, "half \0 \x1b[31mé"))

    # PostgreSQL refuses NUL in text, and keeps it in JSON.
    assert output(store, job_id) == JobOutput(1, 1, True, LATER, text("half \0 \x1b[31mé"), text("!"))


def test_a_snapshot_says_that_the_attempt_runs_when_it_is_the_first_to_come(store: Database) -> None:
    job_id = queued(store)

    record(store, written(job_id, "half"))

    assert output(store, job_id).is_running


@pytest.mark.parametrize("together", [True, False])
def test_the_newest_snapshot_is_kept_in_whatever_order_they_come(store: Database, together: bool) -> None:
    job_id = queued(store)
    reports = [written(job_id, f"to {sequence}", sequence=sequence) for sequence in (2, 3, 1, 3, 2)]

    if together:
        record(store, *reports)
    else:
        for report in reports:
            record(store, report)

    assert output(store, job_id).stdout.text == "to 3"
    assert snapshots(store) == 1


def test_a_later_attempt_begins_anew_and_nothing_of_the_one_before_comes_back(store: Database) -> None:
    job_id = queued(store)
    record(store, written(job_id, "first", sequence=9), ended(job_id, JobState.DELAYED, None))
    record(store, make_report(job_id, JobState.RUNNING, kind="command", attempt=2))
    assert output(store, job_id) == JobOutput(run=1, attempt=2, is_running=True)

    record(store, written(job_id, "second", attempt=2), written(job_id, "first again", sequence=10))

    assert output(store, job_id) == JobOutput(1, 2, True, LATER, text("second"), text("!"))


def test_between_two_attempts_the_output_is_that_of_the_last(store: Database) -> None:
    job_id = queued(store)

    record(store, written(job_id, "half"), ended(job_id, JobState.DELAYED, "whole"))

    assert output(store, job_id) == JobOutput(1, 1, False, ENDED_AT, text("whole"))


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.PARKED])
def test_an_attempt_that_has_ended_shows_the_output_of_its_result(store: Database, state: JobState) -> None:
    job_id = queued(store)
    record(store, written(job_id, "half"))

    record(store, ended(job_id, state, "whole"), written(job_id, "too late", sequence=7))
    record(store, written(job_id, "far too late", sequence=8))

    assert output(store, job_id) == JobOutput(1, 1, False, ENDED_AT, text("whole"))
    # The result has it all, so it is kept once.
    assert snapshots(store) == 0


def test_what_was_written_by_an_attempt_that_was_cancelled_or_lost_is_kept(store: Database) -> None:
    cancelled, lost = queued(store), queued(store)
    record(store, written(cancelled, "half"), written(lost, "half"))

    lost_end = make_report(lost, JobState.PARKED, kind="command", reason=DELIVERY_LIMIT)
    record(store, ended(cancelled, JobState.CANCELLED, None), lost_end)
    record(store, written(cancelled, "too late", sequence=7), written(lost, "too late", sequence=7))

    for job_id in (cancelled, lost):
        assert output(store, job_id) == JobOutput(1, 1, False, LATER, text("half"), text("!"))


def test_a_job_that_a_person_has_asked_to_end_shows_what_it_still_writes(store: Database) -> None:
    job_id = queued(store)
    record(store, written(job_id, "half"))
    store.write(endings.cancel_job, job_id, now=LATER, project=None)

    record(store, written(job_id, "half and more", sequence=2))

    assert output(store, job_id).stdout.text == "half and more"


def test_after_a_redrive_the_output_of_the_run_before_is_named_as_such(store: Database) -> None:
    job_id = queued(store)
    record(store, written(job_id, "half"), ended(job_id, JobState.PARKED, None))
    store.write(parking.redrive, job_id, by="ann", now=LATER, project=None)

    assert output(store, job_id) == JobOutput(1, 1, False, LATER, text("half"), text("!"))
    record(store, written(job_id, "again", run=2))
    assert output(store, job_id) == JobOutput(2, 1, True, LATER, text("again"), text("!"))


def test_without_the_token_of_its_run_nothing_is_kept(store: Database) -> None:
    job_id = queued(store)
    record(store, written(job_id, "half"))

    record(store, written(job_id, "a stranger's", sequence=9), unproven=[0])

    assert output(store, job_id).stdout.text == "half"


def test_jobs_of_kinds_that_write_nothing_keep_nothing_and_say_so(store: Database) -> None:
    job_id = queued(store, "check")

    record(store, written(job_id, "what is this", kind="check"))

    assert snapshots(store) == 0
    with pytest.raises(OutputNotFound, match="kind check"):
        output(store, job_id)


def test_an_unknown_job_has_no_output(store: Database) -> None:
    with pytest.raises(JobNotFound):
        output(store, new_id())


@pytest.mark.parametrize("said", ["a text", 7, {"text": 7}, {"bytes": -1}, []])
def test_a_result_whose_output_is_none_of_ours_is_an_empty_one(store: Database, said: object) -> None:
    job_id = queued(store)

    result = {"exit_code": 0, "stdout": said}
    record(store, make_report(job_id, JobState.SUCCEEDED, kind="command", result=result))

    assert output(store, job_id) == JobOutput(1, 1, False, ENDED_AT)


def test_a_result_without_output_leaves_the_snapshot(store: Database) -> None:
    job_id = queued(store)

    result = {"exit_code": 0, "stdout": None}
    record(store, written(job_id, "half"))
    record(store, make_report(job_id, JobState.SUCCEEDED, kind="command", result=result))

    assert output(store, job_id) == JobOutput(1, 1, False, LATER, text("half"), text("!"))


def test_a_snapshot_goes_with_its_job(store: Database) -> None:
    job_id = queued(store)
    record(store, written(job_id, "half"), ended(job_id, JobState.CANCELLED, None))

    far = LATER + timedelta(days=9_999)
    store.write(retention.delete_single_jobs, JobState.CANCELLED, before=far, after=None, limit=10)

    assert snapshots(store) == 0


def test_reports_of_other_kinds_cost_no_further_statement(store: Database) -> None:
    job_ids = [queued(store, "check") for _ in range(3)]
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    with store.writing() as connection:
        sa.event.listen(connection, "before_cursor_execute", note)
        reports = [make_report(job_id, JobState.SUCCEEDED) for job_id in job_ids]
        recording.record_reports(connection, reports, now=LATER)

    assert statements and not any("outputs" in statement for statement in statements)


def test_the_version_of_an_output_is_another_one_whenever_the_output_is(store: Database) -> None:
    job_id = queued(store)
    seen: list[tuple[str, JobOutput]] = []

    def look() -> None:
        seen.append((store.read(outputs.output_version, job_id, project=None), output(store, job_id)))

    look()
    for report in (
        make_report(job_id, JobState.RUNNING, kind="command"),
        written(job_id, "half", sequence=1),
        written(job_id, "half", sequence=1),
        written(job_id, "more", sequence=2),
        ended(job_id, JobState.DELAYED, "whole"),
        make_report(job_id, JobState.RUNNING, kind="command", attempt=2),
        written(job_id, "half", attempt=2, sequence=2),
        ended(job_id, JobState.PARKED, None, attempt=2),
    ):
        record(store, report)
        look()
    store.write(parking.redrive, job_id, by="ann", now=LATER, project=None)
    look()

    for version, shown in seen:
        assert [each == shown for each_version, each in seen if each_version == version].count(False) == 0
    # What comes twice changes neither.
    assert seen[2] == seen[3]
    with pytest.raises(OutputNotFound):
        store.read(outputs.output_version, queued(store, "check"), project=None)
    with pytest.raises(JobNotFound):
        store.read(outputs.output_version, new_id(), project=None)
