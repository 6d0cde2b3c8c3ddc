"""The overview, the parking lot, operations on many jobs and the other pages; on both stores."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from producer.callers import Scope
from producer.dashboard import overview, parking
from producer.ledger.figures import FigureKeeper
from producer.store import queries, queues, recording
from producer.store.database import RetryingStore
from shared.clock import utc_now
from shared.identity import new_id
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import make_report
from tests.support.keys import make_key
from tests.support.pages import Reader, Visitor, problem_in


@pytest.fixture
def visitor(module_api: RunningApi) -> Iterator[Visitor]:
    visitor = Visitor(module_api.client.base_url)
    yield visitor
    visitor.close()


def count(api: RunningApi) -> None:
    """Do what the leading ledger does every few seconds."""
    keeper = FigureKeeper(store=RetryingStore(api.store), depths=dict)

    async def once() -> None:
        await keeper.fold()
        await keeper.count()

    asyncio.run(once())


def submit(api: RunningApi, host: str, number: int = 1, **fields: Any) -> list[UUID]:
    ids = []
    for place in range(number):
        document = {"kind": "check", "args": {"url": f"https://{host}/{place}"}, **fields}
        answer = api.client.post("/jobs", json=document)
        assert answer.status_code == 202, answer.text
        ids.append(UUID(answer.json()["id"]))
    return ids


def park(api: RunningApi, ids: list[UUID], reason: str = "timeout") -> None:
    reports = [make_report(each, JobState.PARKED, started_at=utc_now(), reason=reason) for each in ids]
    api.store.write(recording.record_reports, reports, now=utc_now())


def states(api: RunningApi, ids: list[UUID]) -> list[JobState]:
    found = api.store.read(queries.get_jobs, ids, project=None)
    return [found[each].state for each in ids]


def host_name() -> str:
    return f"h{new_id().hex[-12:]}.example"


def test_a_group_is_redriven_after_a_dry_run_and_nothing_else(
    module_api: RunningApi, visitor: Visitor
) -> None:
    host, other = host_name(), host_name()
    ours, others = submit(module_api, host, 3), submit(module_api, other, 2)
    park(module_api, ours)
    park(module_api, others)
    count(module_api)

    lot = visitor.see(f"/dashboard/parked?host={host}")
    group = visitor.see(next(link for link in lot.links if re.match(r"/dashboard/parked/[\w-]+$", link)))
    lead = next(link for link in group.links if "operate" in link and "redrive" in link)
    asked = visitor.see(lead)
    first = visitor.send(asked, "/dashboard/operate", {"rate_per_second": "20"})
    again = visitor.send(asked, "/dashboard/operate", {"rate_per_second": "20"})
    shown = visitor.see(first.headers["location"])

    assert "3 jobs, parked from" in group.text
    assert "Redrive 3 jobs?" in asked.text
    assert states(module_api, ours) == [JobState.PARKED] * 3
    assert first.status_code == 303
    assert first.headers["location"] == again.headers["location"]
    assert "0 of 3 are done" in shown.text
    assert "20 a second" in shown.text
    operations = module_api.client.get("/operations").json()["items"]
    assert [each["total"] for each in operations if each["id"] in first.headers["location"]] == [3]
    assert states(module_api, others) == [JobState.PARKED] * 2


def test_an_operation_is_cancelled_from_its_page(module_api: RunningApi, visitor: Visitor) -> None:
    host = host_name()
    ids = submit(module_api, host, 2)
    park(module_api, ids)

    asked = visitor.see(f"/dashboard/operate?action=discard&host={host}")
    path = visitor.send(asked, "/dashboard/operate").headers["location"].partition("?")[0]
    cancelled = visitor.send(visitor.see(path), f"{path}/cancel")
    twice = visitor.http.post(
        f"{path}/cancel", data=visitor.see("/dashboard/submit").forms["/dashboard/submit"]
    )

    assert cancelled.headers["location"] == f"{path}?done=operation-cancelled"
    assert "Cancelled: 0 of 2 are done" in visitor.see(path).text
    assert twice.status_code == 303
    assert path in visitor.see("/dashboard/operations").links
    assert states(module_api, ids) == [JobState.PARKED] * 2


def test_more_than_a_thousand_take_the_number_typed(
    module_api: RunningApi, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "CONFIRMED_ABOVE", 2)
    host = host_name()
    ids = submit(module_api, host, 3)
    park(module_api, ids)
    asked = visitor.see(f"/dashboard/operate?action=redrive&host={host}")

    without = visitor.send(asked, "/dashboard/operate")
    wrong = visitor.send(asked, "/dashboard/operate", {"number": "30"})
    right = visitor.send(asked, "/dashboard/operate", {"number": " 3 "})

    for refused in (without, wrong):
        assert (refused.status_code, problem_in(refused.text)) == (
            200,
            "Type 3 to confirm: nothing was done.",
        )
    assert right.status_code == 303


def test_a_page_that_is_older_than_the_jobs_explains_it(module_api: RunningApi, visitor: Visitor) -> None:
    host = host_name()
    park(module_api, submit(module_api, host, 2))
    asked = visitor.see(f"/dashboard/operate?action=discard&host={host}")
    park(module_api, submit(module_api, host, 2))

    answer = visitor.send(asked, "/dashboard/operate")

    assert "There were 2 jobs when you looked, and now more" in problem_in(answer.text)
    assert "Discard 4 jobs?" in Reader(answer.text).text


def test_all_that_a_list_shows_is_cancelled_and_no_button_would_touch_more(
    module_api: RunningApi, visitor: Visitor
) -> None:
    host = host_name()
    labelled = submit(module_api, host, 2, labels={"env": "test"})
    other = submit(module_api, host, 1)

    listed = visitor.see(f"/dashboard/jobs?host={host}&label=env%3Atest")
    lead = next(link for link in listed.links if "operate" in link)
    by_state = visitor.see(f"/dashboard/jobs?host={host}&state=accepted")
    asked = visitor.see(lead)
    begun = visitor.send(asked, "/dashboard/operate").headers["location"]
    operation = module_api.client.get(re.sub(r"^/dashboard|\?.*", "", begun)).json()

    assert "Cancel 2 jobs?" in asked.text
    assert "label:env:test" in asked.text
    assert operation["filter"] == {"host": host, "labels": {"env": "test"}}
    assert operation["total"] == len(labelled)
    assert [link for link in by_state.links if "operate" in link] == []
    assert states(module_api, other) == [JobState.ACCEPTED]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("action=nope&host=a", "/action: It must be one of: redrive, discard, cancel"),
        ("action=cancel", "Say which jobs"),
        ("action=redrive&group=nope", "There is no such group"),
        ("action=redrive&batch_id=7", "batch_id"),
        ("action=cancel&created_after=soon", "created_after"),
    ],
)
def test_what_cannot_be_done_says_why(visitor: Visitor, query: str, said: str) -> None:
    answer = visitor.http.get(f"/dashboard/operate?{query}")

    assert answer.status_code == 400
    assert said in Reader(answer.text).text


def test_the_overview_shows_what_was_counted_and_what_is_wrong(
    module_api: RunningApi, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    park(module_api, submit(module_api, host_name(), 2), reason="overview_reason")
    module_api.client.post("/kinds/fetch/pause", json={"note": "<b>deploy</b>"})
    count(module_api)
    total = module_api.client.get("/stats").json()["jobs"]["parked"]

    page = visitor.see("/dashboard/")
    tiles = {name: number for number, name in re.findall(r"(\d+) (\S \w+)", page.text)}

    assert "Kind fetch is paused by anonymous: <b>deploy</b>" in page.text
    assert "No ledger leads" in page.text
    assert int(tiles["■ parked"]) == total
    assert "overview_reason" in page.text
    for name in overview.RANGES:
        assert "From submission to end" in visitor.see(f"/dashboard/?range={name}").text
    assert visitor.see("/dashboard/?range=nope").links
    module_api.client.post("/kinds/fetch/resume")


def test_pages_for_everybody_count_nothing(module_api: RunningApi, visitor: Visitor) -> None:
    host = host_name()
    ids = submit(module_api, host, 2)
    park(module_api, ids[:1])
    count(module_api)
    (group_link,) = {
        link for link in visitor.see(f"/dashboard/parked?host={host}").links if "/parked/" in link
    }
    statements: list[str] = []
    listen = lambda *call: statements.append(call[2])  # noqa: E731
    engine = module_api.store._reader
    sa.event.listen(engine, "before_cursor_execute", listen)
    try:
        for path in (
            "/dashboard/",
            "/dashboard/?range=72h",
            "/dashboard/jobs",
            f"/dashboard/jobs?host={host}",
            f"/dashboard/jobs/{ids[0]}",
            f"/dashboard/jobs/{ids[1]}",
            "/dashboard/parked",
            group_link,
            "/dashboard/operations",
            "/dashboard/batches",
            "/dashboard/schedules",
            "/dashboard/hosts",
            "/dashboard/kinds",
            "/dashboard/keys",
            "/dashboard/audit",
            "/dashboard/submit",
        ):
            visitor.see(path)
    finally:
        sa.event.remove(engine, "before_cursor_execute", listen)

    assert len(statements) > 20
    assert [each for each in statements if "count(" in each.lower()] == []


def test_a_hundred_viewers_cost_one_look_a_second(
    module_api: RunningApi, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor.see("/dashboard/")
    statements: list[str] = []
    listen = lambda *call: statements.append(call[2])  # noqa: E731
    engine = module_api.store._reader
    etag = ""
    sa.event.listen(engine, "before_cursor_execute", listen)
    try:
        answers = []
        for _ in range(100):
            headers = {"If-None-Match": etag} if etag else {}
            answers.append(visitor.http.get("/dashboard/", headers=headers))
            etag = answers[-1].headers["etag"]
    finally:
        sa.event.remove(engine, "before_cursor_execute", listen)
    looks = [each for each in statements if "FROM job_counts" in each.replace("\n", " ")]

    elapsed = sum(answer.elapsed.total_seconds() for answer in answers)
    assert len(looks) <= elapsed / overview.SNAPSHOT_SECONDS + 2
    assert [answer.status_code for answer in answers].count(304) >= 90


def test_a_list_of_urls_becomes_a_batch_with_its_page(module_api: RunningApi, visitor: Visitor) -> None:
    form = visitor.see("/dashboard/submit")
    fields = {"kind": "check", "urls": "https://a.example/1\r\nhttps://a.example/2\r\nnope:"}

    sent = visitor.send(form, "/dashboard/submit", fields)
    twice = visitor.send(form, "/dashboard/submit", fields)
    path = sent.headers["location"].partition("?")[0]
    page = visitor.see(path)
    results = visitor.http.get(f"{path}/results", params={"format": "csv"})
    cancelled = visitor.send(page, f"{path}/cancel")

    assert sent.headers["location"] == twice.headers["location"]
    assert "0 of 2 have ended" in page.text
    assert "1 lines rejected" in page.text
    assert "nope:" in page.text
    assert results.text.startswith("id,kind,url,")
    assert cancelled.headers["location"] == f"{path}?done=batch-cancelled"
    assert "2 of 2 have ended" in visitor.see(path).text
    assert path in visitor.see("/dashboard/batches").links


def test_one_url_becomes_a_job(visitor: Visitor) -> None:
    form = visitor.see("/dashboard/submit")

    sent = visitor.send(form, "/dashboard/submit", {"kind": "fetch", "urls": " https://a.example/ "})
    wrong = visitor.send(form, "/dashboard/submit", {"kind": "command", "urls": "https://a.example/"})
    none = visitor.send(form, "/dashboard/submit", {"kind": "check", "urls": " "})

    assert re.fullmatch(r"/dashboard/jobs/[0-9a-f-]{36}\?done=submitted", sent.headers["location"])
    assert "/kind: It must be one of: check, fetch" in problem_in(wrong.text)
    assert "Write a URL a line" in problem_in(none.text)


def test_the_parked_jobs_of_a_batch_are_redriven_from_its_page(
    module_api: RunningApi, visitor: Visitor
) -> None:
    items = [{"url": f"https://{host_name()}/"} for _ in range(2)]
    batch = module_api.client.post("/batches", json={"kind": "check", "items": items}).json()
    listed = module_api.client.get("/jobs", params={"batch_id": batch["id"]}).json()["items"]
    park(module_api, [UUID(each["id"]) for each in listed])
    path = f"/dashboard/batches/{batch['id']}"

    begun = visitor.send(visitor.see(path), f"{path}/redrive").headers["location"]

    assert "0 of 2 are done" in visitor.see(begun).text


def test_schedules_kinds_hosts_and_the_audit_log_are_shown_and_changed(
    module_api: RunningApi, visitor: Visitor
) -> None:
    job = {"kind": "check", "args": {"url": "https://example.com/"}}
    schedule = {"name": "nightly <b>", "cron": "0 3 * * *", "timezone": "Europe/Berlin", "job": job}
    made = module_api.client.post("/schedules", json={**schedule, "name": "nightly"}).json()
    here = f"/dashboard/schedules/{made['id']}"

    schedules = visitor.see("/dashboard/schedules")
    ran = visitor.send(schedules, f"{here}/run")
    paused = visitor.send(schedules, f"{here}/pause")
    shown = visitor.see("/dashboard/schedules")
    resumed = visitor.send(shown, f"{here}/resume")
    kinds = visitor.see("/dashboard/kinds")
    stopped = visitor.send(kinds, "/dashboard/kinds/command/pause")
    going = visitor.send(visitor.see("/dashboard/kinds"), "/dashboard/kinds/command/resume")
    audit = visitor.see(f"/dashboard/audit?target=schedule/{made['id']}")

    assert "Europe/Berlin" in schedules.text
    assert [answer.status_code for answer in (ran, paused, resumed, stopped, going)] == [303] * 5
    assert "paused" in shown.text
    for action in ("schedule_created", "schedule_paused", "schedule_resumed"):
        assert action in audit.text
    assert "paused" in visitor.see("/dashboard/audit").text
    module_api.store.write(queues.note_asked, "films", agent="encoder-7", now=utc_now())
    assert re.search(r"films .* encoder-7", visitor.see("/dashboard/kinds").text)
    assert visitor.see("/dashboard/hosts").text


def test_who_may_only_read_sees_no_way_to_act_anywhere(module_api: RunningApi) -> None:
    host = host_name()
    park(module_api, submit(module_api, host, 1))
    count(module_api)
    everything = make_key(module_api.store, f"all-{new_id()}")
    reader = make_key(module_api.store, f"reads-{new_id()}", [Scope.JOBS_READ])
    visitor = Visitor(module_api.client.base_url)
    visitor.http.headers["Authorization"] = f"Bearer {reader}"

    lot = visitor.see(f"/dashboard/parked?host={host}")
    token = visitor.see("/dashboard/submit").forms["/dashboard/submit"]
    refused = [
        visitor.http.get("/dashboard/operate?action=redrive"),
        visitor.http.post("/dashboard/submit", data={**token, "kind": "check", "urls": "https://a.example/"}),
        visitor.http.post("/dashboard/kinds/check/pause", data=token),
        visitor.http.get("/dashboard/hosts"),
        visitor.http.get("/dashboard/keys"),
    ]
    visitor.http.headers["Authorization"] = f"Bearer {everything}"
    keys = visitor.see("/dashboard/keys")
    (revoke,) = [path for path in keys.forms if "/revoke" in path][:1]
    revoked = visitor.send(keys, revoke)
    visitor.close()

    assert [link for link in lot.links if "operate" in link] == []
    assert "This takes the scope jobs:operate, which key:reads-" in lot.text
    assert [answer.status_code for answer in refused] == [403] * 5
    assert revoked.status_code == 303
    assert everything not in keys.text
