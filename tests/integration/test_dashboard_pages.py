"""The dashboard without a script: its pages, who may see and act, and what strangers put into them."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from producer.callers import Scope
from producer.dashboard.mount import ASSET_VERSIONS
from producer.store import queries, recording
from shared.clock import utc_now
from shared.identity import new_id
from shared.settings import AuthMode, Settings
from shared.states import JobState
from tests.support.api import RunningApi, running_api
from tests.support.factories import make_report
from tests.support.keys import bearer, make_key
from tests.support.pages import Reader, Visitor, problem_in

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\x1b[31m"
READ = [Scope.JOBS_READ]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Yield an API that asks for no key; what pages show does not depend on the store."""
    database = tmp_path_factory.mktemp("pages") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}")) as running:
        yield running


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Yield an API that asks for keys."""
    database = tmp_path_factory.mktemp("locked") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}", auth=AuthMode.REQUIRED)) as running:
        yield running


@pytest.fixture
def visitor(api: RunningApi) -> Iterator[Visitor]:
    visitor = Visitor(api.client.base_url)
    yield visitor
    visitor.close()


@pytest.fixture
def stranger(locked: RunningApi) -> Iterator[Visitor]:
    visitor = Visitor(locked.client.base_url)
    yield visitor
    visitor.close()


def submit(api: RunningApi, url: str = "https://example.com/", **fields: Any) -> str:
    document = {"kind": "check", "args": {"url": url}, **fields}
    answer = api.client.post("/jobs", json=document)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def park(api: RunningApi, job_id: str, **said: Any) -> None:
    report = make_report(UUID(job_id), JobState.PARKED, started_at=utc_now(), **said)
    api.store.write(recording.record_reports, [report], now=utc_now())


def state_of(api: RunningApi, job_id: str) -> JobState:
    return api.store.read(queries.get_job, UUID(job_id), project=None).state


def sign_in(visitor: Visitor, text: str, path: str = "/dashboard/jobs") -> httpx.Response:
    page = visitor.see(path)
    return visitor.send(page, "/dashboard/login", {"key": text})


def test_every_page_is_whole_and_all_in_it_is_ours(api: RunningApi, visitor: Visitor) -> None:
    job_id = submit(api)

    for path in ("/", "/dashboard", "/dashboard/jobs", f"/dashboard/jobs/{job_id}", "/dashboard/help"):
        answer = visitor.http.get(path, follow_redirects=True)
        page = Reader(answer.text)

        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "'unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert page.scripts == [f"/dashboard/static/live.js?v={ASSET_VERSIONS['live.js']}"]
        assert all(link.startswith(("/", "#")) for link in page.links)
        assert "{{" not in answer.text


def test_what_the_api_answers_of_a_thing_leads_to_its_page(api: RunningApi, visitor: Visitor) -> None:
    job_id = submit(api)
    park(api, job_id)
    listed = {"kind": "check", "items": [{"url": "https://example.com/"}]}
    batch = api.client.post("/batches", json=listed).json()
    operation = api.client.post("/operations", json={"action": "discard", "filter": {"kind": "fetch"}}).json()

    for path in (f"/jobs/{job_id}", f"/batches/{batch['id']}", f"/operations/{operation['id']}"):
        link = api.client.get(path).links["alternate"]

        assert link["type"] == "text/html"
        assert visitor.http.get(link["url"]).status_code == 200
        assert link["url"].endswith(path)


def test_all_assets_together_are_small_and_kept_by_browsers(api: RunningApi) -> None:
    sizes = {}
    for name, version in ASSET_VERSIONS.items():
        answer = api.client.get(f"/dashboard/static/{name}", params={"v": version})
        assert "immutable" in answer.headers["cache-control"]
        sizes[name] = len(answer.content)

    assert sum(sizes.values()) <= 40_960
    assert sizes["live.js"] <= 8_192
    assert api.client.get("/dashboard/static/live.js").headers["cache-control"] == "no-cache"
    assert api.client.get("/dashboard/static/../mount.py").status_code == 404
    assert api.client.get("/dashboard/static/nope.js").status_code == 404


def test_a_page_that_has_not_changed_is_not_sent_again(api: RunningApi, visitor: Visitor) -> None:
    job_id = submit(api)
    path = f"/dashboard/jobs/{job_id}"
    visitor.see(path)
    first = visitor.http.get(path)
    etag = first.headers["etag"]

    again = visitor.http.get(path, headers={"If-None-Match": etag})
    park(api, job_id)
    changed = visitor.http.get(path, headers={"If-None-Match": etag})

    assert (again.status_code, again.content) == (304, b"")
    assert f'data-etag="{etag.strip(chr(34))}"' in first.text
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


def test_a_search_becomes_an_address_that_the_api_knows(api: RunningApi, visitor: Visitor) -> None:
    ref = f"find-{new_id()}"
    job_id = submit(api, ref=ref, labels={"env": "prod"})

    found = visitor.http.get("/dashboard/jobs", params={"q": f"ref:{ref} label:env:prod"})
    page = visitor.see(found.headers["location"])
    document = visitor.http.get(found.headers["location"].replace("/jobs?", "/jobs.json?"))

    assert found.status_code == 303
    assert f"/dashboard/jobs/{job_id}" in page.links
    assert page.forms["/dashboard/jobs"]["q"] == f"ref:{ref} label:env:prod"
    assert document.json() == api.client.get("/jobs", params={"ref": ref, "label": "env:prod"}).json()
    assert document.headers["content-security-policy"] == "sandbox; default-src 'none'"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("q=stat:parked", "There is no such word; there are: url, host"),
        ("q=after:yesterday", "is no time"),
        ("state=nope", "/query/state: It must be one of"),
        ("batch_id=7", "/query/batch_id"),
        ("cursor=x", "/query/cursor"),
        ("nope=1", "/query/nope"),
    ],
)
def test_a_search_that_is_wrong_says_so(visitor: Visitor, query: str, said: str) -> None:
    answer = visitor.http.get(f"/dashboard/jobs?{query}")

    assert answer.status_code == 400
    assert said in problem_in(answer.text)


def test_a_list_says_how_far_it_has_looked(
    api: RunningApi, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = f"h{new_id()}.example"
    for number in range(60):
        submit(api, f"https://{host}/{'deep' if number == 3 else number}")

    first = visitor.see(f"/dashboard/jobs?host={host}")
    older = next(link for link in first.links if "cursor=" in link)
    second = visitor.see(older)

    assert len([link for link in first.links if re.search(r"/jobs/[0-9a-f-]{36}$", link)]) == 50
    assert len([link for link in second.links if re.search(r"/jobs/[0-9a-f-]{36}$", link)]) == 10
    assert "These are all" in second.text


def test_a_parked_job_is_redriven_once_however_often_it_is_clicked(api: RunningApi, visitor: Visitor) -> None:
    job_id = submit(api)
    park(api, job_id)
    path = f"/dashboard/jobs/{job_id}"
    page = visitor.see(path)

    first = visitor.send(page, f"{path}/redrive")
    second = visitor.send(page, f"{path}/redrive")
    record = api.store.read(queries.get_job, UUID(job_id), project=None)

    assert (first.status_code, first.headers["location"]) == (303, f"{path}?done=redriven")
    assert second.headers["location"] == first.headers["location"]
    assert (record.state, record.run) == (JobState.ACCEPTED, 2)
    assert "The job was sent back" in visitor.see(first.headers["location"]).text
    audit = api.client.get("/audit", params={"target": f"job/{job_id}"}).json()["items"]
    assert [entry["action"] for entry in audit] == ["job_redriven"]


@pytest.mark.parametrize("name", ["€", "a\nb", "\x00"])
def test_a_form_with_a_name_that_no_page_of_ours_gives_it_is_taken_without(
    api: RunningApi, visitor: Visitor, name: str
) -> None:
    job_id = submit(api)
    park(api, job_id)
    batch = api.client.post(
        "/batches", json={"kind": "check", "items": [{"url": "https://a.example/"}]}
    ).json()
    for each in api.client.get("/jobs", params={"batch_id": batch["id"]}).json()["items"]:
        park(api, each["id"])
    path, here = f"/dashboard/jobs/{job_id}", f"/dashboard/batches/{batch['id']}"

    sent = [
        visitor.send(visitor.see(path), f"{path}/redrive", {"run": name}),
        visitor.send(visitor.see(path), f"{path}/again", {"once": name}),
        visitor.send(visitor.see(here), f"{here}/redrive", {"once": name}),
        visitor.send(
            visitor.see("/dashboard/submit"),
            "/dashboard/submit",
            {"once": name, "kind": "check", "urls": "http://a.example/"},
        ),
    ]

    assert [each.status_code for each in sent] == [303] * 4, [problem_in(each.text) for each in sent]


def test_a_page_of_an_earlier_state_explains_instead_of_acting(api: RunningApi, visitor: Visitor) -> None:
    job_id = submit(api)
    park(api, job_id)
    path = f"/dashboard/jobs/{job_id}"
    page = visitor.see(path)
    api.client.post(f"/jobs/{job_id}/redrive")

    answer = visitor.send(page, f"{path}/discard")

    assert answer.status_code == 409
    assert problem_in(answer.text) == "Only a parked job can be redriven or discarded."
    assert state_of(api, job_id) is JobState.ACCEPTED


def test_a_job_is_cancelled_and_run_again(api: RunningApi, visitor: Visitor) -> None:
    job_id = submit(api, labels={"a": "b"}, lane="bulk")
    path = f"/dashboard/jobs/{job_id}"
    page = visitor.see(path)

    cancelled = visitor.send(page, f"{path}/cancel")
    again = visitor.send(page, f"{path}/again")
    twice = visitor.send(page, f"{path}/again")

    assert cancelled.headers["location"].endswith("done=cancelled")
    assert state_of(api, job_id) is JobState.CANCELLED
    new = re.findall(r"/jobs/([0-9a-f-]{36})", again.headers["location"])[0]
    copy = api.client.get(f"/jobs/{new}").json()
    assert new != job_id
    assert twice.headers["location"] == again.headers["location"]
    assert (copy["kind"], copy["args"]["url"], copy["lane"], copy["labels"]) == (
        "check",
        "https://example.com/",
        "bulk",
        {"a": "b"},
    )


def test_a_parked_job_is_redriven_with_other_arguments(api: RunningApi, visitor: Visitor) -> None:
    job_id = submit(api, "https://user:hunter2@example.com/")
    park(api, job_id)
    path = f"/dashboard/jobs/{job_id}/edit"
    form = visitor.see(path)

    broken = visitor.send(form, path, {"args": '{"url": '})
    wrong = visitor.send(form, path, {"args": '{"url": "https://other.example/", "nope": 1}'})
    more = visitor.send(form, path, {"args": '{"url": "https://a.example/"}, "x": 1'})
    right = visitor.send(form, path, {"args": '{"url": "https://other.example/"}'})
    record = api.store.read(queries.get_job, UUID(job_id), project=None)

    assert "hunter2" not in form.text
    assert [answer.status_code for answer in (broken, wrong, more)] == [400, 400, 400]
    assert "/args/nope" in problem_in(wrong.text)
    assert right.headers["location"].endswith("done=redriven")
    assert (record.url, record.run, record.state) == ("https://other.example/", 2, JobState.ACCEPTED)
    assert visitor.see(path).text.count("only a parked job can be redriven") == 1


@pytest.mark.parametrize("token", [None, "", "x" * 27])
def test_a_form_without_the_token_of_its_session_does_nothing(
    api: RunningApi, visitor: Visitor, token: str | None
) -> None:
    job_id = submit(api)
    path = f"/dashboard/jobs/{job_id}"
    visitor.see(path)

    answer = visitor.http.post(f"{path}/cancel", data={} if token is None else {"token": token})

    assert answer.status_code in {403, 415}
    assert state_of(api, job_id) is JobState.ACCEPTED


def test_a_form_of_another_session_or_origin_does_nothing(api: RunningApi, visitor: Visitor) -> None:
    job_id = submit(api)
    path = f"/dashboard/jobs/{job_id}"
    fields = visitor.see(path).forms[f"{path}/cancel"]
    other = Visitor(api.client.base_url)
    other.see(path)

    of_another = other.http.post(f"{path}/cancel", data=fields)
    without = httpx.post(api.client.base_url.join(f"{path}/cancel"), data=fields)
    foreign = visitor.http.post(f"{path}/cancel", data=fields, headers={"Origin": "https://evil.example"})
    other.close()

    assert [answer.status_code for answer in (of_another, without, foreign)] == [403, 403, 403]
    assert state_of(api, job_id) is JobState.ACCEPTED


def test_what_strangers_write_is_text_in_every_field(api: RunningApi, visitor: Visitor) -> None:
    job_id = submit(
        api,
        f"https://example.com/{EVIL[:-5]}",
        ref="<script>alert(1)</script>",
        labels={"b": "<script>alert(1)</script>"},
        callback_url="https://example.com/?<script>",
    )
    hop = {"method": EVIL, "url": EVIL, "status": 200, "seconds": 1.0, "ip": EVIL, "location": EVIL}
    certificate = {"subject": EVIL, "issuer": EVIL, "protocol": EVIL}
    result = {"verdict": EVIL, "explanation": EVIL, "hops": [hop], "certificate": certificate, EVIL: EVIL}
    park(api, job_id, reason=EVIL, explanation=EVIL, result=result, worker=EVIL)
    headers = {"Retriever-Actor": "<script>alert(1)</script>"}
    assert api.client.post(f"/jobs/{job_id}/redrive", headers=headers).status_code == 202
    park(api, job_id, reason=EVIL, explanation=EVIL, result=result, worker=EVIL, run=2)

    for path in ("/dashboard/jobs", f"/dashboard/jobs/{job_id}", f"/dashboard/jobs?q={job_id}&x=<script>"):
        text = visitor.http.get(path, follow_redirects=True).text
        page = Reader(text)

        assert len(page.scripts) == 1
        assert "img" not in page.tags
        assert "alert(1)" in page.text
        assert "<script>alert" not in text


def test_numbers_and_surrogates_of_strangers_are_shown_and_harm_nothing(
    api: RunningApi, visitor: Visitor
) -> None:
    job_id = submit(api)
    result = {"big": 2**63, "exact": 1.5, "lone": "\ud800", "nul": "a\x00b", "verdict": "\ud800"}
    park(api, job_id, result=result, reason="a\x00")

    page = visitor.see(f"/dashboard/jobs/{job_id}")

    assert '"big": 9223372036854775808' in page.text
    assert '"lone": "\\ud800"' in page.text
    assert visitor.see("/dashboard/jobs?state=parked").links


def test_a_password_is_shown_on_no_page(api: RunningApi, visitor: Visitor) -> None:
    job_id = submit(api, "https://user:hunter2@example.com/")
    park(api, job_id, explanation="No answer from https://user:hunter2@example.com/.")

    for path in ("/dashboard/jobs", f"/dashboard/jobs/{job_id}", f"/dashboard/jobs/{job_id}.json"):
        text = visitor.http.get(path).text
        assert "hunter2" not in text
        assert "example.com" in text


def test_a_large_result_makes_no_large_page(api: RunningApi, visitor: Visitor) -> None:
    job_id = submit(api)
    park(api, job_id, result={"data": "x" * 3_000_000})

    text = visitor.http.get(f"/dashboard/jobs/{job_id}").text

    assert len(text) < 100_000
    assert "There is more than a page shows" in Reader(text).text


def test_a_page_that_is_not_there_is_a_page(visitor: Visitor) -> None:
    for path in (f"/dashboard/jobs/{new_id()}", "/dashboard/nope", "/dashboard//jobs", "/dashboard/jobs/x"):
        answer = visitor.http.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert visitor.http.get("/dashboard/%2e%2e%2fjobs").status_code == 404
    assert visitor.http.put("/dashboard/jobs").status_code == 405
    assert visitor.http.head("/dashboard/jobs").content == b""


def test_without_a_key_there_is_nothing_but_the_way_in(stranger: Visitor, locked: RunningApi) -> None:
    page = stranger.http.get("/dashboard/jobs?state=parked")
    acted = stranger.http.post(f"/dashboard/jobs/{new_id()}/cancel", data={"token": "x"})

    assert (page.status_code, page.headers["location"]) == (
        303,
        "/dashboard/login?next=%2Fdashboard%2Fjobs%3Fstate%3Dparked",
    )
    assert acted.status_code == 403
    assert stranger.http.get("/dashboard/jobs.json").status_code == 303
    assert Reader(stranger.http.get(page.headers["location"]).text).links[-1] == "/ui/"


def test_a_session_does_what_its_key_may_until_it_is_revoked(stranger: Visitor, locked: RunningApi) -> None:
    text = make_key(locked.store, name := f"ops-{new_id()}")
    headers = bearer(text)
    job = {"kind": "check", "args": {"url": "https://example.com/"}}
    job_id = locked.client.post("/jobs", json=job, headers=headers).json()["id"]
    path = f"/dashboard/jobs/{job_id}"

    entered = sign_in(stranger, text, path)
    cookie = entered.headers["set-cookie"]
    done = stranger.send(stranger.see(path), f"{path}/cancel")
    audit = locked.client.get("/audit", params={"target": f"job/{job_id}"}, headers=headers).json()
    (key,) = [
        key for key in locked.client.get("/keys", headers=headers).json()["items"] if key["name"] == name
    ]
    locked.client.post(f"/keys/{key['id']}/revoke", headers=headers)
    after = stranger.http.get(path)

    assert (entered.status_code, entered.headers["location"]) == (303, path)
    assert "HttpOnly; SameSite=Lax" in cookie
    assert text not in cookie
    assert done.status_code == 303
    assert [entry["action"] for entry in audit["items"]] == ["job_cancelled"]
    assert audit["items"][0]["by"].startswith("key:ops-")
    assert after.headers["location"].endswith("&ended=1")


def test_a_wrong_key_opens_nothing_and_is_not_repeated_to_whoever_looks(stranger: Visitor) -> None:
    answer = sign_in(stranger, "rtv_nope<script>")

    assert answer.status_code == 403
    assert "No live key has this text" in answer.text
    assert "rtv_nope" not in answer.text


def test_who_may_only_read_sees_why_they_may_not_act(stranger: Visitor, locked: RunningApi) -> None:
    operator = bearer(make_key(locked.store, f"all-{new_id()}"))
    text = make_key(locked.store, f"reader-{new_id()}", READ)
    job = {"kind": "check", "args": {"url": "https://example.com/"}}
    job_id = locked.client.post("/jobs", json=job, headers=operator).json()["id"]
    path = f"/dashboard/jobs/{job_id}"
    sign_in(stranger, text, path)

    page = stranger.see(path)
    forced = stranger.http.post(f"{path}/cancel", data=page.forms["/dashboard/logout"])

    assert f"{path}/cancel" not in page.forms
    assert "This takes the scope jobs:operate, which key:reader-" in page.text
    assert forced.status_code == 403
    assert "This takes the scope jobs:operate" in problem_in(forced.text)


def test_a_key_that_may_not_read_sees_no_page(stranger: Visitor, locked: RunningApi) -> None:
    sign_in(stranger, make_key(locked.store, f"writer-{new_id()}", [Scope.JOBS_WRITE]))

    for path in ("/dashboard/jobs", f"/dashboard/jobs/{new_id()}", "/dashboard/jobs.json"):
        answer = stranger.http.get(path)
        assert (answer.status_code, "jobs:read" in answer.text) == (403, True)


def test_a_project_sees_its_own_jobs_alone(stranger: Visitor, locked: RunningApi) -> None:
    ours = make_key(locked.store, f"ours-{new_id()}", project="ours")
    theirs = make_key(locked.store, f"theirs-{new_id()}", project="theirs")
    job = {"kind": "check", "args": {"url": "https://example.com/"}}
    of_ours = locked.client.post("/jobs", json=job, headers=bearer(ours)).json()["id"]
    of_theirs = locked.client.post("/jobs", json=job, headers=bearer(theirs)).json()["id"]
    sign_in(stranger, ours)

    links = stranger.see("/dashboard/jobs").links

    assert f"/dashboard/jobs/{of_ours}" in links
    assert f"/dashboard/jobs/{of_theirs}" not in links
    stranger.see(f"/dashboard/jobs/{of_theirs}", 404)


def test_signing_out_ends_the_session(stranger: Visitor, locked: RunningApi) -> None:
    sign_in(stranger, make_key(locked.store, f"leaver-{new_id()}"))
    page = stranger.see("/dashboard/jobs")

    left = stranger.send(page, "/dashboard/logout")

    assert left.headers["location"] == "/dashboard/login"
    assert stranger.http.get("/dashboard/jobs").status_code == 303


def test_a_cookie_is_for_tls_alone_behind_tls(locked: RunningApi) -> None:
    answer = locked.client.get("/dashboard/login", headers={"X-Forwarded-Proto": "https"})

    assert answer.headers["set-cookie"].endswith("; Secure")


def test_webhooks_and_the_audit_log_stand_on_the_page_of_their_job(api: RunningApi, visitor: Visitor) -> None:
    job_id = submit(api, callback_url="https://hooks.example/x")
    park(api, job_id)

    page = visitor.see(f"/dashboard/jobs/{job_id}")

    found = api.client.get("/jobs", params={"kind": "webhook", "label": f"callback_of:job/{job_id}"}).json()
    assert f"/dashboard/jobs/{found['items'][0]['id']}" in page.links


def test_a_body_is_shown_as_text_and_given_to_save(api: RunningApi, visitor: Visitor) -> None:
    job = {"kind": "fetch", "args": {"url": "https://example.com/"}}
    job_id = api.client.post("/jobs", json=job).json()["id"]
    result = {"status": 200, "content_type": "text/html", "body": "<script>alert(1)</script>" + "x" * 5_000}
    report = make_report(UUID(job_id), JobState.SUCCEEDED, kind="fetch", result=result)
    api.store.write(recording.record_reports, [report], now=utc_now() + timedelta(0))

    answer = visitor.http.get(f"/dashboard/jobs/{job_id}")
    saved = visitor.http.get(f"/dashboard/jobs/{job_id}/body")

    page = Reader(answer.text)
    assert len(page.scripts) == 1
    assert "This is how it begins." in page.text
    assert saved.text == result["body"]
    assert saved.headers["content-disposition"].startswith("attachment")
    assert saved.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert (
        visitor.http.get(f"/dashboard/jobs/{job_id}/body", headers={"Range": "bytes=0-7"}).text == "<script>"
    )
    assert json.loads(visitor.http.get(f"/dashboard/jobs/{job_id}.json").text)["id"] == job_id
