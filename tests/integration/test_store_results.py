"""The results of a batch on both stores: which match, a page at a time, each once, and how many there are."""

from collections.abc import Collection
from itertools import product
from typing import Any
from uuid import UUID

import pytest

from producer.records import NewJob, Rejected, ResultFilter
from producer.store import results, submissions
from producer.store import schema as tables
from producer.store.database import Database
from producer.store.sql import encode_document
from shared.kinds.check import Verdict
from shared.states import JobState
from tests.support.factories import make_batch, make_job

# What a page may say in its title, to be taken for a result.
FORGED = '","verdict":"blocked","reason":"bot_wall","'


def ended(store: Database, job: NewJob, state: JobState, reason: str | None, result: Any) -> None:
    """Put a job where reports would have put it."""
    values = {"state": state, "reason": reason, "result": result}
    store.write(
        lambda connection: connection.execute(
            tables.jobs.update().where(tables.jobs.c.id == job.id).values(values)
        )
    )


@pytest.fixture
def batch_id(store: Database) -> UUID:
    """Return a batch with a job for each state and verdict, in this order, twice; and two rejected lines."""
    batch = make_batch()
    ends = [*product(JobState, [None, *Verdict])] * 2
    jobs = [make_job(ref=f"{state}/{verdict}", line=line) for line, (state, verdict) in enumerate(ends, 1)]
    rejected = [Rejected(101, "/lines/101", "No", "here"), Rejected(102, "/lines/102", "No")]
    # Of another batch, and of none.
    others = [make_job(ref="parked/down") for _ in range(2)]
    store.write(submissions.insert_batch, batch, jobs, rejected)
    store.write(submissions.insert_batch, make_batch(), others[:1], [Rejected(1, "/lines/1", "No", "here")])
    store.write(submissions.insert_jobs, others[1:])
    for job, (state, verdict) in zip(jobs, ends, strict=True):
        result = {"verdict": verdict, "reason": f"is_{verdict}", "title": FORGED} if verdict else None
        ended(store, job, state, "http_503" if state is JobState.PARKED else None, result)
    for job in others:
        ended(store, job, JobState.PARKED, "http_503", {"verdict": "down"})
    return batch.id


def lines_of(store: Database, batch_id: UUID, wanted: ResultFilter, **how: int) -> list[int | None]:
    """Return the lines of the jobs that match, over all pages."""
    found, after = [], None
    while True:
        page = store.read(
            results.batch_jobs,
            batch_id,
            after=after,
            wanted=wanted,
            **{"limit": 7, "window_rows": 5, **how},
            project=None,
        )
        found += [job.line for job in page.records]
        if (after := page.following) is None:
            return found


def expected(**wanted: Collection[Any]) -> list[int]:
    ends = [*product(JobState, [None, *Verdict])] * 2
    return [
        line
        for line, (state, verdict) in enumerate(ends, 1)
        if state in wanted.get("states", {state})
        and verdict in wanted.get("verdicts", {verdict})
        and (
            "reasons" not in wanted
            or ("http_503" if state is JobState.PARKED else verdict and f"is_{verdict}") in wanted["reasons"]
        )
    ]


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"states": ["parked"]},
        {"states": ["parked", "succeeded", "delayed"]},
        {"verdicts": ["blocked"]},
        {"verdicts": ["ok", "down"]},
        {"reasons": ["http_503"]},
        {"reasons": ["is_blocked", "http_503"]},
        {"reasons": ["IS_BLOCKED"]},
        {"reasons": ["is%"]},
        {"states": ["succeeded"], "verdicts": ["broken", "down"], "reasons": ["is_broken"]},
        {"states": ["parked"], "reasons": ["is_down"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("how", [{}, {"limit": 1}, {"limit": 500, "window_rows": 5_000}], ids=str)
def test_what_matches_comes_once_in_the_order_of_the_lines_however_it_is_cut(
    store: Database, batch_id: UUID, wanted: dict[str, list[str]], how: dict[str, int]
) -> None:
    chosen = {name: sorted(wanted.get(name, ())) for name in ("states", "verdicts", "reasons")}
    asked = ResultFilter(chosen["states"], chosen["verdicts"], chosen["reasons"])

    assert lines_of(store, batch_id, asked, **how) == expected(**wanted)


def test_a_ref_chooses_among_the_results_of_the_batch_alone(store: Database, batch_id: UUID) -> None:
    asked = ResultFilter(ref="parked/down")

    assert lines_of(store, batch_id, asked) == expected(states={"parked"}, verdicts={"down"})
    counts = store.read(results.count_results, batch_id, asked, project=None)
    assert (counts.jobs, counts.rejected) == ({(JobState.PARKED, "down"): 2}, 0)
    assert store.read(results.count_results, batch_id, ResultFilter(ref="here"), project=None).rejected == 1


@pytest.mark.parametrize(
    ("asked", "rejected"),
    [
        (ResultFilter(), 2),
        (ResultFilter(states=["rejected"]), 2),
        (ResultFilter(states=["rejected", "parked"]), 2),
        (ResultFilter(states=["parked"]), 0),
        (ResultFilter(verdicts=["ok"]), 0),
        (ResultFilter(states=["rejected"], reasons=["http_503"]), 0),
    ],
    ids=str,
)
def test_what_is_counted_is_what_matches(
    store: Database, batch_id: UUID, asked: ResultFilter, rejected: int
) -> None:
    counts = store.read(results.count_results, batch_id, asked, project=None)

    assert counts.rejected == rejected
    listed = lines_of(store, batch_id, asked) if asked.has_jobs else []
    assert sum(counts.jobs.values()) == len(listed)
    for (state, verdict), number in counts.jobs.items():
        assert number == len(set(listed) & set(expected(states={state}, verdicts={verdict})))


def test_a_result_that_no_operator_on_json_takes_is_looked_into(store: Database) -> None:
    batch, job = make_batch(), make_job(line=1)
    store.write(submissions.insert_batch, batch, [job])
    result = {"title": "\0\ud800", "verdict": "broken", "reason": "http_404"}
    assert "\\u0000" in encode_document(result)
    ended(store, job, JobState.SUCCEEDED, None, result)

    asked = ResultFilter(verdicts=["broken"], reasons=["http_404"])
    assert lines_of(store, batch.id, asked) == [1]
    assert store.read(results.count_results, batch.id, asked, project=None).jobs == {
        (JobState.SUCCEEDED, "broken"): 1
    }
