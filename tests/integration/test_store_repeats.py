"""Repeats, on both stores: they wait, get the answer of their original, and never wait for ever."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from producer.records import JobRecord, NewBatch, NewJob
from producer.repeats import RepeatFinder
from producer.store import (
    batches,
    endings,
    outbox,
    parking,
    queries,
    recording,
    repeats,
    schedules,
    submissions,
    unfinished,
)
from producer.store.database import Database
from producer.store.schema import IS_ENDED_ORIGINAL, IS_WAITING_REPEAT, events, is_waiting_repeat, jobs
from producer.store.sql import POSTGRESQL, is_one_of
from producer.submission import JobTemplate
from producer.submission_models import BatchSubmission
from shared.identity import new_id
from shared.kinds.registry import KINDS, Lane
from shared.states import JobState
from tests.support.factories import NOON, make_report

HOUR = timedelta(hours=1)
SEARCHED = {"assertions": {"fragment": True}}
QUEUES = [(kind, lane) for kind in KINDS for lane in Lane]


def found(verdict: str = "ok", **more: Any) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "reason": "ok",
        "explanation": "The host answered as it should.",
        "final_url": "http://a.example/x",
        "hops": [],
        "total_seconds": 0.1,
        "assertions": [],
        **more,
    }


def submit(
    store: Database, *paths: str, args: Mapping[str, Any] | None = None, **more: Any
) -> tuple[NewBatch, list[NewJob]]:
    """Store a batch of checks of these paths, and return it with its jobs."""
    items = [{"url": f"http://a.example/{path}", **(args or {})} for path in paths]
    template = JobTemplate.of(
        BatchSubmission.model_validate({"kind": "check", "items": items, **more}), now=NOON, project="default"
    )
    finder = RepeatFinder(template, dedupe=True)
    placed = [(valid, finder.find(valid.document)) for valid in map(template.validate, items)]
    batch = template.batch(batch_id=new_id(), repeats=finder.repeats)
    made = list(finder.jobs(template, placed, batch_id=batch.id))
    store.write(submissions.insert_batch, batch, made)
    return batch, made


def read(store: Database, job: NewJob) -> JobRecord:
    return store.read(queries.get_job, job.id, project=None)


def states(store: Database, made: list[NewJob]) -> list[JobState]:
    return [read(store, job).state for job in made]


def claim(store: Database) -> list[UUID]:
    return [each.id for each in store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON)]


def end(store: Database, job: NewJob, state: JobState = JobState.SUCCEEDED, **more: Any) -> None:
    store.write(recording.record_reports, [make_report(job.id, state, **more)], now=NOON)


def answer(store: Database, *, limit: int = 500, now: datetime = NOON) -> int:
    """Answer until nothing is left to do; return how many jobs changed, and the most at once."""
    changed = 0
    while originals := store.read(repeats.ended_originals, limit=100):
        changed += len(store.write(repeats.answer_repeats, originals, now=now, limit=limit))
    return changed


def outcomes(store: Database) -> list[dict[str, Any]]:
    with store.reading() as connection:
        bodies = connection.scalars(sa.select(sa.cast(events.c.body, sa.Text)).order_by(events.c.id)).all()
    return [body for body in map(json.loads, bodies) if "job_id" in body]


def test_only_the_original_is_published(store: Database) -> None:
    batch, made = submit(store, "x", "x", "y", "x")

    assert claim(store) == [made[0].id, made[2].id]
    record = store.read(queries.get_batch, batch.id, project=None)
    assert (record.total, record.repeats) == (4, 2)
    assert record.counts == {JobState.ACCEPTED: 2, JobState.SCHEDULED: 2}
    assert [read(store, job).original for job in made] == [None, made[0].id, None, made[0].id]


def test_repeats_get_the_answer_of_their_original_each_by_itself(store: Database) -> None:
    batch, made = submit(store, "x#a", "x#b", "x#c", args=SEARCHED)
    assertion = {"assertion": "fragment", "expected": "#a", "passed": True, "observed": None}
    others = {"b": {**assertion, "expected": "#b"}, "c": {**assertion, "expected": "#c", "passed": False}}
    result = found(assertions=[assertion], fragments=others, final_url="http://a.example/x#a")
    end(store, made[0], result=result)

    assert answer(store) == 2

    ended = [read(store, job) for job in made]
    assert [job.state for job in ended] == [JobState.SUCCEEDED] * 3
    assert [job.result and job.result["verdict"] for job in ended] == ["ok", "ok", "broken"]
    assert [job.result and job.result["final_url"][-2:] for job in ended] == ["#a", "#b", "#c"]
    assert [(job.attempt, job.due_at, job.attempts) for job in ended[1:]] == [(0, None, [])] * 2
    assert sorted(each["job_id"] for each in outcomes(store)) == sorted(str(job.id) for job in made)
    assert store.read(queries.get_batch, batch.id, project=None).finished_at is not None
    assert store.read(batches.wrong_counts, batch.id) == {}


def test_repeats_are_answered_in_pages_and_a_crash_between_two_repeats_nothing(store: Database) -> None:
    batch, made = submit(store, *["x"] * 8)
    end(store, made[0], result=found())

    pages = []
    while originals := store.read(repeats.ended_originals, limit=100):
        pages.append(len(store.write(repeats.answer_repeats, originals, now=NOON, limit=3)))

    assert pages == [3, 3, 1]
    assert len(outcomes(store)) == 8
    assert store.read(batches.wrong_counts, batch.id) == {}
    assert store.write(repeats.answer_repeats, [made[0].id], now=NOON) == []


def test_large_answers_go_to_fewer_repeats_at_once(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_PAGE_BYTES", 500)
    _, made = submit(store, *["x"] * 4)
    end(store, made[0], result=found(explanation="x" * 400))

    first = store.write(repeats.answer_repeats, [made[0].id], now=NOON)

    assert len(first) == 1
    assert answer(store) == 2


def test_many_originals_are_done_with_at_once(store: Database) -> None:
    _, made = submit(store, *(f"{n // 2}" for n in range(20)))
    for job in made[::2]:
        end(store, job, result=found(explanation=str(job.id)))

    originals = store.read(repeats.ended_originals, limit=100)
    assert len(store.write(repeats.answer_repeats, originals, now=NOON)) == 10

    assert store.read(repeats.ended_originals, limit=100) == []
    for first, second in zip(made[::2], made[1::2], strict=True):
        assert (read(store, second).result or {})["explanation"] == str(first.id)


def test_repeats_of_a_parked_job_are_parked_alike_and_can_be_redriven_by_themselves(store: Database) -> None:
    batch, made = submit(store, "x", "x", "x#a")
    end(store, made[0], JobState.PARKED, result=found("down"))
    assert answer(store) == 2

    parked = read(store, made[2])
    assert (parked.state, parked.reason, parked.attempt) == (JobState.PARKED, "http_503", 0)
    words = f"The server answered 503. Job {made[0].id} asked for this one too."
    assert parked.explanation == words
    assert (parked.result or {})["final_url"] == "http://a.example/x#a"

    redriven = store.write(parking.redrive, made[2].id, now=NOON, project=None)
    assert (redriven.state, redriven.original) == (JobState.ACCEPTED, None)
    assert claim(store) == [made[2].id]
    store.write(
        recording.record_reports,
        [make_report(made[2].id, JobState.SUCCEEDED, run=2, result=found())],
        now=NOON,
    )
    assert states(store, made) == [JobState.PARKED, JobState.PARKED, JobState.SUCCEEDED]
    assert store.read(batches.wrong_counts, batch.id) == {}


def test_a_job_that_is_redriven_before_its_repeats_were_parked_answers_with_its_next_run(
    store: Database,
) -> None:
    _, made = submit(store, "x", "x")
    end(store, made[0], JobState.PARKED)

    store.write(parking.redrive, made[0].id, now=NOON, project=None)

    assert answer(store) == 0
    assert states(store, made) == [JobState.ACCEPTED, JobState.SCHEDULED]
    store.write(
        recording.record_reports,
        [make_report(made[0].id, JobState.SUCCEEDED, run=2, result=found())],
        now=NOON,
    )
    assert answer(store) == 1
    assert states(store, made) == [JobState.SUCCEEDED] * 2


def test_the_next_repeat_asks_when_the_original_is_cancelled_alone(store: Database) -> None:
    batch, made = submit(store, "x#a", "x#b", "x#c", args=SEARCHED)
    store.write(endings.cancel_job, made[0].id, now=NOON, project=None)

    assert answer(store) == 1

    assert states(store, made) == [JobState.CANCELLED, JobState.ACCEPTED, JobState.SCHEDULED]
    assert read(store, made[1]).args["fragments"] == ["a", "c"]
    assert [read(store, job).original for job in made] == [None, None, made[1].id]
    assert claim(store) == [made[1].id]
    end(store, made[1], result=found())
    assert answer(store) == 1
    assert read(store, made[2]).state is JobState.SUCCEEDED
    assert store.read(batches.wrong_counts, batch.id) == {}


def test_a_successor_in_a_batch_that_waits_for_its_time_waits_for_it_too(store: Database) -> None:
    _, made = submit(store, "x", "x", "x", run_at=(NOON + HOUR).isoformat())
    store.write(endings.cancel_job, made[0].id, now=NOON, project=None)
    assert answer(store) == 1

    assert read(store, made[1]).due_at == NOON + HOUR
    store.write(schedules.release_due, limit=10, now=NOON + HOUR)
    assert states(store, made) == [JobState.CANCELLED, JobState.ACCEPTED, JobState.SCHEDULED]


def test_repeats_of_a_discarded_job_are_asked_for_by_one_of_them(store: Database) -> None:
    _, made = submit(store, "x", "x")
    end(store, made[0], JobState.PARKED)

    store.write(parking.discard, made[0].id, now=NOON, project=None)

    assert answer(store) == 1
    assert states(store, made) == [JobState.CANCELLED, JobState.ACCEPTED]


def test_a_cancelled_batch_cancels_its_repeats(store: Database) -> None:
    batch, made = submit(store, "x", "x", "y")

    endings.cancel_batch(store, batch.id, now=NOON, project=None)

    assert states(store, made) == [JobState.CANCELLED] * 3
    assert answer(store) == 0


def test_repeats_that_a_broken_off_cancellation_left_are_cancelled_with_their_original(
    store: Database,
) -> None:
    batch, made = submit(store, "x", "x", "x")
    store.write(endings._begin_batch_cancel, batch.id, project=None, by="ann", now=NOON)
    end(store, made[0], JobState.CANCELLED)

    assert answer(store) == 2
    assert states(store, made) == [JobState.CANCELLED] * 3


def test_a_repeat_can_be_cancelled_alone(store: Database) -> None:
    _, made = submit(store, "x", "x", "x")

    store.write(endings.cancel_job, made[1].id, now=NOON, project=None)
    end(store, made[0], result=found())

    assert answer(store) == 1
    assert states(store, made) == [JobState.SUCCEEDED, JobState.CANCELLED, JobState.SUCCEEDED]


def test_repeats_expire_by_their_own_deadline(store: Database) -> None:
    _, made = submit(store, "x", "x", expires_after_seconds=60)

    store.write(schedules.expire_jobs, limit=10, now=NOON + HOUR)

    assert states(store, made) == [JobState.PARKED] * 2
    assert {read(store, job).reason for job in made} == {"expired"}
    assert answer(store) == 0


def test_a_repeat_waits_for_as_long_as_its_original_is_unfinished(store: Database) -> None:
    _, made = submit(store, "x", "x")
    claim(store)
    later = NOON + HOUR

    assert store.write(schedules.release_due, limit=10, now=later) == []

    assert read(store, made[1]).due_at == later + HOUR
    assert states(store, made)[1] is JobState.SCHEDULED


def test_a_repeat_whose_original_is_gone_asks_by_itself(store: Database) -> None:
    batch, made = submit(store, "x", "x", "x")
    end(store, made[0], result=found())
    with store.writing() as connection:
        connection.execute(jobs.delete().where(jobs.c.id == made[0].id))

    released = store.write(schedules.release_due, limit=10, now=NOON + HOUR)

    assert [each.state for each in released] == [JobState.ACCEPTED] * 2
    assert claim(store) == [job.id for job in made[1:]]
    assert read(store, made[1]).same_as is None
    assert store.read(queries.get_batch, batch.id, project=None).counts[JobState.ACCEPTED] == 2


def test_repeats_of_a_job_that_was_redriven_with_other_arguments_ask_by_themselves(store: Database) -> None:
    _, made = submit(store, "x", "x")
    end(store, made[0], JobState.PARKED)
    args = {"url": "http://b.example/"}

    store.write(
        parking.redrive_edited,
        made[0].id,
        args=args,
        host="b.example",
        unique_key=b"",
        by="ann",
        now=NOON,
        project=None,
    )
    store.write(
        recording.record_reports,
        [make_report(made[0].id, JobState.SUCCEEDED, run=2, result=found())],
        now=NOON,
    )

    assert answer(store) == 0
    store.write(schedules.release_due, limit=10, now=NOON + HOUR)
    assert states(store, made) == [JobState.SUCCEEDED, JobState.ACCEPTED]


def test_repeats_are_neither_lost_nor_overdue_nor_sent_again(store: Database) -> None:
    submit(store, "x", "x", "x")
    later = NOON + 48 * HOUR

    for state in JobState:
        if state is not JobState.ACCEPTED and not state.is_final:
            page = store.read(unfinished.read_page, state, QUEUES, heard_before=later, after=None)
            silent = dict.fromkeys(QUEUES, later)
            quiet = store.read(unfinished.read_silent, state, silent, created_before=None, after=None)
            waiting = [job for job in (*page.jobs, *quiet.jobs) if state is not JobState.SCHEDULED]
            assert waiting == []
    assert store.read(unfinished.newest_waiting, now=later) == []


def test_a_batch_is_not_said_to_last_until_its_repeats_are_looked_after(store: Database) -> None:
    batch, _ = submit(store, "x", "x")

    assert store.read(queries.get_batch, batch.id, project=None).latest_due_at == NOON


def test_looking_for_answers_reads_only_what_there_is_to_do(store: Database) -> None:
    """A batch of one URL a hundred thousand times is answered in pages, each at the same cost."""
    repeat = jobs.alias("repeat")
    waits = sa.exists().where(repeat.c.same_as == jobs.c.id, is_waiting_repeat(repeat))

    with store.writing() as connection:
        if connection.dialect.name == POSTGRESQL:
            # Tables so small are read whole.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        queries_of_a_page = [
            sa.select(jobs.c.id).where(IS_ENDED_ORIGINAL).limit(100),
            sa.select(jobs.c.id)
            .where(IS_WAITING_REPEAT, is_one_of(connection, jobs.c.same_as, [new_id()]))
            .limit(500),
            sa.select(jobs.c.id).where(jobs.c.id == new_id(), waits),
        ]
        plans = [plan_of(connection, query) for query in queries_of_a_page]

    assert "ix_jobs_ended_originals" in plans[0]
    assert "ix_jobs_waiting_repeats" in plans[1]
    assert "ix_jobs_waiting_repeats" in plans[2]


def plan_of(connection: sa.Connection, query: sa.Select[Any]) -> str:
    explain = "EXPLAIN" if connection.dialect.name == POSTGRESQL else "EXPLAIN QUERY PLAN"
    text = query.compile(connection, compile_kwargs={"literal_binds": True})
    return str(connection.exec_driver_sql(f"{explain} {text}".replace("%", "%%")).all())
