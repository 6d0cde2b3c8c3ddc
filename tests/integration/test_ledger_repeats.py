"""The repeat answerer on both stores: what it cannot answer holds up nothing else."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.repeats import RepeatAnswerer
from producer.records import LOOK_AFTER, NewJob
from producer.store import queries, recording, repeats, submissions
from producer.store.database import Database, RetryingStore
from shared.identity import new_id
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report


def submit_group(store: Database) -> tuple[NewJob, NewJob]:
    """Store a batch of two jobs that ask the same, and end the one that asks."""
    id_ = new_id()
    original = make_job(job_id=id_, same_as=id_)
    repeat = make_job(same_as=id_, due_at=NOON + LOOK_AFTER)
    store.write(submissions.insert_batch, make_batch(), [original, repeat])
    report = make_report(original.id, JobState.SUCCEEDED, result={"verdict": "ok"})
    store.write(recording.record_reports, [report], now=NOON)
    return original, repeat


async def test_a_group_that_cannot_be_answered_is_put_aside_and_holds_up_no_other(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (odd, waiting), (_, fine) = submit_group(store), submit_group(store)
    answerer = RepeatAnswerer(store=RetryingStore(store), metrics=LedgerMetrics())
    end = repeats._end

    def end_but_one(original: Any, *args: Any) -> Any:
        if original.id == odd.id:
            raise ValueError("nobody can read this")
        return end(original, *args)

    monkeypatch.setattr(repeats, "_end", end_but_one)
    assert await answerer.tick()

    assert store.read(queries.get_job, fine.id, project=None).state is JobState.SUCCEEDED
    assert store.read(queries.get_job, waiting.id, project=None).state is JobState.SCHEDULED
    assert not await answerer.tick()
    # The next ledger, or this one started again, looks at it once more.
    monkeypatch.setattr(repeats, "_end", end)
    assert await RepeatAnswerer(store=RetryingStore(store), metrics=LedgerMetrics()).tick()
    assert store.read(queries.get_job, waiting.id, project=None).state is JobState.SUCCEEDED


def test_two_answerers_at_once_end_each_repeat_once(store: Database) -> None:
    originals = [submit_group(store)[0].id for _ in range(40)]

    def answer(_: int) -> list[object]:
        pages = (store.write(repeats.answer_repeats, originals, now=NOON, limit=3) for _ in range(20))
        return [each.job_id for page in pages for each in page]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(answer, range(2))

    assert len(first) + len(second) == len({*first, *second}) == 40
    assert store.read(repeats.ended_originals, limit=100) == []
