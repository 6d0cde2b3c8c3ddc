"""Hosts near their limits over HTTP: who holds what, limits of run time, and what held jobs say."""

from producer.hosts import HostLimits
from producer.store import outbox
from producer.store.hosts import HostTurns
from shared.clock import utc_now
from shared.hosts import HostLimit
from tests.support.api import RunningApi


def submit(api: RunningApi, count: int) -> list[str]:
    lines = "".join(f"https://busy.example/{number}\n" for number in range(count))
    answer = api.client.post("/batches?kind=check", content=lines, headers={"Content-Type": "text/plain"})
    batch = answer.raise_for_status().json()["id"]
    listed = api.client.get("/jobs", params={"batch_id": batch}).raise_for_status().json()["items"]
    return sorted(job["id"] for job in listed)


def claim(api: RunningApi, limit: HostLimit) -> None:
    turns = HostTurns(HostLimits(limit))
    api.store.write(outbox.claim_accepted, limit=100, lease_seconds=60, now=utc_now(), turns=turns)


def test_a_held_job_says_what_it_waits_for_and_when_it_is_expected(api: RunningApi) -> None:
    jobs = submit(api, 5)
    claim(api, HostLimit(2, 1))

    said = api.client.get(f"/jobs/{jobs[-1]}").json()
    listed = api.client.get("/jobs").json()["items"]

    assert said["state"] == "accepted"
    assert said["explanation"].startswith(
        "busy.example is at its limit of 2 at once and 1 a second; 3 jobs are before this one; expected at 2"
    )
    assert [job["explanation"] for job in listed].count("Waiting until busy.example has room.") == 4


def test_hosts_near_their_limits_are_listed_and_others_are_not_there(api: RunningApi) -> None:
    submit(api, 5)
    claim(api, HostLimit(2))

    listed = api.client.get("/hosts").raise_for_status().json()
    one = api.client.get("/hosts/busy.example").raise_for_status().json()
    other = api.client.get("/hosts/idle.example")

    assert listed == {"items": [one], "next": None}
    assert (one["waiting"], one["in_flight"], one["breaker"], one["is_set"]) == (3, 2, "closed", False)
    assert one["limit"] == one["allowed"] == {"concurrency": 2, "rate_per_second": 0.0}
    assert other.status_code == 404


def test_pages_of_hosts_lead_on_by_name(api: RunningApi) -> None:
    for name in ("b.example", "a.example", "c.example"):
        api.client.put(f"/hosts/{name}/limit", json={"concurrency": 1}).raise_for_status()

    first = api.client.get("/hosts", params={"limit": 2}).json()
    second = api.client.get("/hosts", params={"limit": 2, "after": first["next"]}).json()

    names = [[host["host"] for host in page["items"]] for page in (first, second)]
    assert (names, second["next"]) == ([["a.example", "b.example"], ["c.example"]], None)


def test_a_limit_of_run_time_holds_is_audited_and_can_be_taken_back(api: RunningApi) -> None:
    limit = {"concurrency": 3, "rate_per_second": 0.5}
    actor = {"Retriever-Actor": "ann"}

    put = api.client.put("/hosts/BUSY.example:8080/limit", json=limit, headers=actor)
    taken = api.client.delete("/hosts/busy.example:8080/limit", headers=actor)

    assert (put.json()["host"], put.json()["limit"], put.json()["is_set"]) == (
        "busy.example:8080",
        limit,
        True,
    )
    assert taken.json()["is_set"] is False
    entries = api.client.get("/audit", params={"target": "host/busy.example:8080"}).json()["items"]
    assert [entry["action"] for entry in entries] == ["host_limit_cleared", "host_limit_set"]
    assert entries[1]["details"] == {"host": "busy.example:8080", "before": None, "after": limit}


def test_a_host_is_named_as_urls_name_it_and_what_is_none_is_refused_by_its_place(api: RunningApi) -> None:
    for text, name in (
        ("B%C3%9CCHER.example.", "xn--bcher-kva.example"),
        ("0x7f.1:0443", "127.0.0.1:443"),
        ("%5B0:0::1%5D:8080", "[::1]:8080"),
    ):
        put = api.client.put(f"/hosts/{text}/limit", json={"concurrency": 1}).raise_for_status()
        assert put.json()["host"] == name
        assert api.client.get(f"/hosts/{text}").raise_for_status().json()["host"] == name
    for text in [*["a:65536", "::1", "a%20b", "u@a", "*.example", "a%3Fb", "256.1.1.1", "%FF"], "a." * 128]:
        for answer in (
            api.client.put(f"/hosts/{text}/limit", json={"concurrency": 1}),
            api.client.delete(f"/hosts/{text}/limit"),
        ):
            assert answer.status_code == 400, text
            assert answer.json()["errors"][0]["loc"] == "/path/host"
    assert api.client.put(f"/hosts/{'a' * 301}/limit", json={"concurrency": 1}).status_code == 400


def test_a_limit_that_is_none_is_refused_by_its_field(api: RunningApi) -> None:
    for wrong, field in (
        ({"concurrency": 0}, "/concurrency"),
        ({"concurrency": 1, "rate_per_second": -1}, "/rate"),
    ):
        answer = api.client.put("/hosts/a.example/limit", json=wrong)
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["loc"].startswith(field)
