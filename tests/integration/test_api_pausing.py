"""Pausing over HTTP, on both stores: orders, what is shown, and what is refused."""

from typing import Any

import pytest

from producer.pausing import QueueObservation
from producer.store import queues as store_queues
from shared.clock import utc_now
from shared.kinds.registry import KINDS
from tests.support.api import RunningApi

ANN = {"Retriever-Actor": "ann"}
BY_ANN = "anonymous (ann)"


def queues(api: RunningApi) -> dict[str, dict[str, Any]]:
    """Return every queue of every kind, by kind and lane."""
    kinds = api.client.get("/kinds").json()["items"]
    return {f"{queue['kind']}.{queue['lane']}": queue for kind in kinds for queue in kind["queues"]}


def paused(api: RunningApi) -> set[str]:
    return {name for name, queue in queues(api).items() if queue["paused"]}


def test_a_queue_that_was_never_seen_has_no_figures(api: RunningApi) -> None:
    assert queues(api)["check.bulk"] == {
        "name": "jobs.check.bulk",
        "kind": "check",
        "lane": "bulk",
        "ready": None,
        "consumers": None,
        "observed_at": None,
        "paused": None,
    }


def test_tasks_are_paused_although_no_queue_of_the_broker_holds_them(api: RunningApi) -> None:
    (queue,) = api.client.post("/kinds/task/pause", json={"lane": "bulk"}, headers=ANN).json()["items"]

    assert (queue["name"], queue["ready"], queue["consumers"]) == (None, None, None)
    assert (queue["kind"], queue["lane"], queue["paused"]["by"]) == ("task", "bulk", BY_ANN)
    assert paused(api) == {"task.bulk"}


def test_a_kind_is_paused_in_a_lane_and_resumed(api: RunningApi) -> None:
    api.store.write(
        store_queues.record_queues, [QueueObservation("jobs.check.bulk", "check", "bulk", 7, 2, utc_now())]
    )
    job = api.client.post(
        "/jobs", json={"kind": "check", "lane": "bulk", "args": {"url": "http://a.example/"}}
    ).json()
    order = {"lane": "bulk", "note": "the target is down"}

    answer = api.client.post("/kinds/check/pause", json=order, headers=ANN)
    again = api.client.post("/kinds/check/pause", json={"lane": "bulk"})

    assert (answer.status_code, answer.json()) == (again.status_code, again.json())
    (queue,) = answer.json()["items"]
    assert (queue["name"], queue["ready"], queue["consumers"]) == ("jobs.check.bulk", 7, 2)
    since = queue["paused"].pop("since")
    assert queue["paused"] == {
        "kind": "check",
        "lane": "bulk",
        "by": BY_ANN,
        "note": "the target is down",
    }
    assert paused(api) == {"check.bulk"}
    said = api.client.get(f"/jobs/{job['id']}").json()["explanation"]
    since = f"{since[:19]}+00:00"
    assert said == f"Kind check is paused in lane bulk since {since} by {BY_ANN}: the target is down."
    assert api.client.get("/jobs").json()["items"][0]["explanation"] == said

    resumed = [api.client.post("/kinds/check/resume", headers=ANN) for _ in range(2)]

    assert [each.status_code for each in resumed] == [200, 200]
    assert len(resumed[0].json()["items"]) == 2 and paused(api) == set()
    log = api.client.get("/audit", params={"target": "kind/check"}).json()["items"]
    assert [(entry["action"], entry["by"]) for entry in log] == [
        ("resumed", BY_ANN),
        ("paused", BY_ANN),
    ]
    said = api.client.get(f"/jobs/{job['id']}").json()["explanation"]
    assert said == "Stored; waiting to be published to the broker."


def test_a_lane_is_paused_over_all_kinds_and_apart_from_them(api: RunningApi) -> None:
    api.client.post("/lanes/bulk/pause", headers=ANN)
    api.client.post("/kinds/check/pause")
    bulk = {f"{kind}.bulk" for kind in KINDS}
    assert paused(api) == bulk | {"check.interactive"}

    answer = api.client.post("/kinds/check/resume").json()

    # The answer says what still holds the bulk lane up.
    assert [bool(queue["paused"]) for queue in answer["items"]] == [False, True]
    assert {queue["paused"]["kind"] for queue in answer["items"] if queue["paused"]} == {"*"}
    assert api.client.post("/lanes/bulk/resume").json()["items"][0]["paused"] is None
    assert paused(api) == set()


@pytest.mark.parametrize(
    ("path", "body", "loc"),
    [
        ("/kinds/nonsense/pause", {}, "/path/kind"),
        ("/kinds/*/pause", {}, "/path/kind"),
        ("/lanes/fast/pause", {}, "/path/lane"),
        ("/kinds/check/pause", {"lane": "fast"}, "/lane"),
        ("/kinds/check/pause", {"note": "a\0b"}, "/note"),
        ("/kinds/check/pause", {"note": "a" * 501}, "/note"),
        ("/kinds/check/resume", {"notes": "a"}, "/notes"),
        ("/lanes/bulk/pause", {"lane": "bulk"}, "/lane"),
        ("/lanes/bulk/resume", [], ""),
    ],
)
def test_a_wrong_order_is_refused_by_name(api: RunningApi, path: str, body: object, loc: str) -> None:
    answer = api.client.post(path, json=body)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["loc"] == loc
    assert paused(api) == set()


def test_batches_are_listed_by_label(api: RunningApi) -> None:
    body = {"kind": "check", "items": [{"url": "http://a.example/"}]}
    batches = [
        api.client.post("/batches", json={**body, "labels": {"team": team}}).json()
        for team in ("web", "docs")
    ]

    assert api.client.get("/batches").json() == {"items": batches[::-1], "next": None}
    assert api.client.get("/batches?label=team:web").json()["items"] == batches[:1]
    first = api.client.get("/batches?limit=1").json()
    assert api.client.get(f"/batches?limit=1&cursor={first['next']}").json()["items"] == batches[:1]
    assert api.client.get("/batches?label=team").json()["errors"][0]["loc"] == "/query/label"
