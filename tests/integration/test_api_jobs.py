"""Jobs over HTTP, on both stores: submit, look up, list, redrive."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from producer.store import queries, recording
from shared.messages import Report
from shared.outcomes import OutcomeName
from shared.states import JobState
from tests.support.api import RunningApi

URL = "https://example.com/"


def submit(api: RunningApi, url: str = URL, **fields: object) -> dict[str, object]:
    response = api.client.post("/jobs", json={"kind": "check", "args": {"url": url}, **fields})
    assert response.status_code == 202, response.text
    document: dict[str, object] = response.json()
    return document


def park(api: RunningApi, job_id: str) -> None:
    now = datetime.now(UTC)
    report = Report(
        job_id=UUID(job_id),
        kind="check",
        run=1,
        attempt=1,
        state=JobState.PARKED,
        started_at=now,
        ended_at=now,
        outcome=OutcomeName.FAILED_PERMANENT,
        reason="http_404",
        explanation="The page is gone.",
        worker="test",
    )
    api.store.write(recording.record_reports, [report], now=now)


def test_a_submitted_job_is_stored_before_it_is_answered(api: RunningApi) -> None:
    response = api.client.post(
        "/jobs",
        json={"kind": "check", "args": {"url": "HTTPS://Example.com"}, "labels": {"team": "docs"}},
    )

    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/jobs/{job['id']}"
    assert (job["state"], job["run"], job["attempt"], job["attempts"]) == ("accepted", 1, 0, [])
    assert job["args"] == {"url": URL}
    assert job["host"] == "example.com"
    # No ledger runs here, which is the one thing to be said since.
    later = api.client.get(response.headers["location"]).json()
    assert later.pop("explanation").endswith("to the broker, which no ledger has reached yet.")
    assert later == {name: value for name, value in job.items() if name != "explanation"}


def test_a_job_with_a_time_says_until_when_it_waits(api: RunningApi) -> None:
    job = submit(api, delay_seconds=3_600)

    assert job["state"] == "scheduled"
    assert job["explanation"] == f"Waiting until {str(job['due_at'])[:19]}+00:00, its time to run."
    assert api.client.get(f"/jobs/{job['id']}").json() == job


def test_a_deadline_is_shown(api: RunningApi) -> None:
    job = submit(api, expires_after_seconds=60)

    created_at, deadline_at = (
        datetime.fromisoformat(str(job[name])) for name in ("created_at", "deadline_at")
    )
    assert deadline_at - created_at == timedelta(minutes=1)
    assert job["state"] == "accepted"


def test_times_that_make_no_sense_are_named(api: RunningApi) -> None:
    wrong: dict[str, list[object]] = {
        "run_at": ["2999-01-01T00:00:00Z", "2026-01-01T00:00:00", "soon", 5],
        "delay_seconds": [-1, "5", 1e9],
        "deadline_at": ["2001-01-01T00:00:00Z"],
        "expires_after_seconds": [0],
    }
    for name, values in wrong.items():
        for value in values:
            body = {"kind": "check", "args": {"url": URL}, name: value}
            response = api.client.post("/jobs", json=body)

            assert response.status_code == 400, body
            assert response.json()["errors"][0]["loc"] == f"/{name}"


def test_an_override_changes_only_its_own_part_of_the_retry_policy(api: RunningApi) -> None:
    job = submit(api, retry={"max_attempts": 9})

    stored = api.store.read(queries.get_job, UUID(str(job["id"])), project=None)
    assert stored.retry.max_attempts == 9
    assert stored.retry.first_delay_seconds == 5.0


def test_every_attempt_is_shown_and_a_parked_job_says_why(api: RunningApi) -> None:
    job_id = str(submit(api)["id"])

    park(api, job_id)

    job = api.client.get(f"/jobs/{job_id}").json()
    assert (job["state"], job["reason"], job["explanation"]) == ("parked", "http_404", "The page is gone.")
    [attempt] = job["attempts"]
    assert (attempt["run"], attempt["number"], attempt["outcome"]) == (1, 1, "failed_permanent")


def test_a_parked_job_is_redriven_under_its_own_id(api: RunningApi) -> None:
    job_id = str(submit(api)["id"])
    park(api, job_id)

    response = api.client.post(f"/jobs/{job_id}/redrive")

    assert response.status_code == 202
    assert response.headers["location"] == f"/jobs/{job_id}"
    assert (response.json()["id"], response.json()["state"], response.json()["run"]) == (
        job_id,
        "accepted",
        2,
    )


def test_only_a_parked_job_can_be_redriven(api: RunningApi) -> None:
    job_id = submit(api)["id"]

    response = api.client.post(f"/jobs/{job_id}/redrive")

    assert response.status_code == 409
    assert response.json()["type"] == "urn:retriever:job-not-parked"


def test_lists_are_paged_newest_first_without_gap_or_double(api: RunningApi) -> None:
    ids = [submit(api)["id"] for _ in range(5)]

    seen, cursor = [], None
    while True:
        page = api.client.get("/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["items"]]
        if (cursor := page["next"]) is None:
            break

    assert seen == ids[::-1]
    assert "attempts" not in page["items"][0]


def test_lists_are_filtered_by_state_kind_batch_and_host(api: RunningApi) -> None:
    other = submit(api, url="http://other.example:8080/")
    submit(api)
    batch = api.client.post("/batches", json={"kind": "fetch", "items": [{"url": URL}]}).json()

    def listed(**query: str) -> list[str]:
        return [job["id"] for job in api.client.get("/jobs", params=query).json()["items"]]

    assert listed(host="OTHER.example") == [other["id"]]
    assert len(listed(batch=batch["id"])) == len(listed(kind="fetch")) == 1
    assert len(listed(state="accepted")) == 3
    assert listed(state="parked") == []


def test_jobs_are_searched_by_url_label_reason_and_time(api: RunningApi) -> None:
    first = submit(api, "https://example.com/Docs/100%25_done", labels={"team": "docs", "tier": "1"})
    second = submit(api, "https://example.com/docs/100xxdone", labels={"team": "Docs", "tier": "1"})
    park(api, str(second["id"]))

    def listed(query: str) -> list[str]:
        answer = api.client.get(f"/jobs?{query}").json()
        assert answer["next"] is None
        return [job["id"] for job in answer["items"]]

    both = [second["id"], first["id"]]
    assert listed("url=/docs/") == listed("label=tier:1") == both
    # What is a wildcard to the database is none to us.
    assert listed("url=100%2525_D") == [first["id"]]
    assert listed("url=100_") == listed("url=%25xx") == listed("url=%ff") == listed("url=%ed%a0%80") == []
    assert listed("label=team:docs&label=tier:1") == [first["id"]]
    assert listed("label=team:docs&label=tier:2") == listed("label=team:doc") == []
    assert listed("reason=http_404") == listed("reason=http_404&url=DOCS&state=parked") == [second["id"]]
    assert listed("created_after=2026-01-01T00:00:00Z") == both
    assert listed("created_before=2026-01-01T00:00:00.5%2B01:00") == []
    assert (
        listed("created_after=0001-01-01T00:00:00%2B23:59&created_before=9999-12-31T23:59:59-23:59") == both
    )


def test_an_unknown_or_malformed_id_is_not_found(api: RunningApi) -> None:
    for job_id in ("x", "%00", "%0A", "0" * 36, "01a203ed-41f9-7748-9387-575740560da6", "é", "a" * 5_000):
        for response in (api.client.get(f"/jobs/{job_id}"), api.client.post(f"/jobs/{job_id}/redrive")):
            assert response.status_code == 404, job_id
            assert response.headers["content-type"] == "application/problem+json"
            assert len(response.content) < 400


WRONG_QUERIES = {
    "limit=0": "/query/limit",
    "limit=1001": "/query/limit",
    "limit=abc": "/query/limit",
    "limit=" + "9" * 5_000: "/query/limit",
    "state=finished": "/query/state",
    "kind=nonsense": "/query/kind",
    "kind=%00": "/query/kind",
    "host=a%00b": "/query/host",
    "host=%ff": "/query/host",
    "host=": "/query/host",
    "batch=x": "/query/batch",
    "cursor=%00": "/query/cursor",
    "stat=parked": "/query/stat",
    "url=": "/query/url",
    "url=a%00b": "/query/url",
    "reason=%0A": "/query/reason",
    "label=team": "/query/label",
    "label=:docs": "/query/label",
    "label=team:%00": "/query/label",
    "&".join(["label=a:b"] * 21): "/query/label",
    "created_after=2026-01-01": "/query/created_after",
    "created_after=2026-01-01T00:00:00": "/query/created_after",
    "created_before=2026-02-30T00:00:00Z": "/query/created_before",
    "created_before=2026-01-01T00:00:00+01:00": "/query/created_before",
}


def test_a_wrong_parameter_is_named(api: RunningApi) -> None:
    for query, loc in WRONG_QUERIES.items():
        response = api.client.get(f"/jobs?{query}")

        assert response.status_code == 400, query
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["errors"][0]["loc"] == loc
        assert len(response.content) < 1_000
