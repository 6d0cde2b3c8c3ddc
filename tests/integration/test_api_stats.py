"""Figures of a project: right, its own, bounded, and looked at once for all who ask; on both stores."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from producer.api import stats as stats_api
from producer.store import recording, stats
from producer.store.schema import jobs
from shared.clock import utc_now
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import make_report
from tests.support.keys import bearer, make_key

CHECK = {"kind": "check", "args": {"url": "https://example.com/"}}


def submit(api: RunningApi, headers: dict[str, str] | None = None, **fields: Any) -> str:
    answer = api.client.post("/jobs", json=CHECK | fields, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def report(api: RunningApi, *ids: str, state: JobState) -> None:
    reports = [make_report(UUID(each), state) for each in ids]
    api.store.write(recording.record_reports, reports, now=utc_now())


def shown(api: RunningApi, headers: dict[str, str] | None = None) -> dict[str, Any]:
    answer = api.client.get("/stats", headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(autouse=True)
def _not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_api, "KEPT_SECONDS", -1.0)


def test_jobs_are_counted_by_what_they_wait_for_and_how_they_ended(api: RunningApi) -> None:
    waiting = [submit(api) for _ in range(3)]
    submit(api, delay_seconds=3_600)
    parked, done, earlier = (submit(api) for _ in range(3))
    report(api, waiting[0], state=JobState.RUNNING)
    report(api, parked, state=JobState.PARKED)
    report(api, done, earlier, state=JobState.SUCCEEDED)
    with api.store.writing() as connection:
        number = int((utc_now() - timedelta(minutes=10)).timestamp() * 1_000_000)
        connection.execute(jobs.update().where(jobs.c.id == UUID(earlier)).values(feed_number=number))
    items = [{"url": "https://example.com/1"}]
    assert api.client.post("/batches", json={"kind": "check", "items": items}).status_code == 202

    found = shown(api)

    assert found["jobs"] == {
        "scheduled": 1,
        "accepted": 3,
        "queued": 0,
        "running": 1,
        "delayed": 0,
        "parked": 1,
    }
    assert found["ended_last_minute"] == {"succeeded": 1, "parked": 1, "cancelled": 0}
    assert found["ended_last_hour"] == {"succeeded": 2, "parked": 1, "cancelled": 0}
    assert (found["unfinished_batches"], found["running_operations"], found["cut"]) == (1, 0, [])


def test_an_operation_that_runs_is_counted(api: RunningApi) -> None:
    submit(api)
    document = {"action": "cancel", "filter": {"kind": "check"}}
    assert api.client.post("/operations", json=document).status_code == 202

    assert shown(api)["running_operations"] == 1


def test_a_project_has_its_own_figures_and_an_operator_all(module_api: RunningApi) -> None:
    api = module_api
    ours, theirs = (bearer(make_key(api.store, name, project=name)) for name in ("ours", "theirs"))
    operator = bearer(make_key(api.store, "operator", project=None))
    ended = submit(api, theirs)
    for _ in range(2):
        submit(api, theirs)
    submit(api, ours)
    report(api, ended, state=JobState.SUCCEEDED)

    accepted = [shown(api, each)["jobs"]["accepted"] for each in (ours, theirs, operator)]
    succeeded = [shown(api, each)["ended_last_hour"]["succeeded"] for each in (ours, theirs, operator)]

    assert (accepted, succeeded) == ([1, 2, 3], [0, 1, 1])


def test_figures_of_more_than_is_looked_at_are_said_to_be_cut(api: RunningApi) -> None:
    ids = [submit(api) for _ in range(4)]
    report(api, *ids[:2], state=JobState.SUCCEEDED)

    found = api.store.read(stats.read_stats, project=None, now=utc_now(), most_rows=2)

    assert found.jobs[JobState.ACCEPTED] == 2
    assert found.cut == {"accepted", "ended_last_minute", "ended_last_hour"}


def test_who_asks_again_gets_what_was_found_a_moment_ago(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shown(api)
    monkeypatch.setattr(stats_api, "KEPT_SECONDS", 3_600.0)
    submit(api)

    assert shown(api) == first
    monkeypatch.setattr(stats_api, "KEPT_SECONDS", -1.0)
    assert shown(api)["jobs"]["accepted"] == first["jobs"]["accepted"] + 1
