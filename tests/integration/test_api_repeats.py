"""Lines of a batch that ask the same, over HTTP, on both stores and in every form of a body."""

import json
from typing import Any

import pytest

from producer.store import recording, repeats
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import NOON, make_report

BODIES = {
    "text/plain": b"http://a.example/x\nhttp://a.example/y\nhttp://a.example/x\nhttp://A.example/x#b\n",
    "application/x-ndjson": b"\n".join(
        json.dumps({"url": f"http://a.example/{path}"}).encode() for path in ("x", "y", "x", "x#b")
    ),
    "text/csv": b"url\nhttp://a.example/x\nhttp://a.example/y\nhttp://a.example/x\nhttp://a.example/x#b\n",
}
ITEMS = [{"url": f"http://a.example/{path}"} for path in ("x", "y", "x", "x#b")]


def submit(api: RunningApi, body: bytes, media_type: str = "text/plain", query: str = "") -> Any:
    answer = api.client.post(f"/batches{query}", content=body, headers={"Content-Type": media_type})
    assert answer.status_code == 202, answer.text
    return answer.json()


def jobs_of(api: RunningApi, batch: dict[str, Any]) -> list[Any]:
    lines = api.client.get(f"/batches/{batch['id']}/results").text.splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("media_type", [*BODIES, "application/json"])
def test_lines_that_ask_the_same_are_jobs_of_their_own_and_are_asked_once(
    api: RunningApi, media_type: str
) -> None:
    json_body = json.dumps({"kind": "check", "items": ITEMS}).encode()
    batch = submit(api, BODIES.get(media_type, json_body), media_type)

    assert (batch["total"], batch["repeats"]) == (4, 2)
    assert {state: number for state, number in batch["counts"].items() if number} == {
        "accepted": 2,
        "scheduled": 2,
    }
    assert api.client.get(f"/batches/{batch['id']}").json() == batch
    first, other, *repeating = jobs_of(api, batch)
    assert [first["same_as"], other["same_as"]] == [None, None]
    assert {each["same_as"] for each in repeating} == {first["id"]}
    assert {each["due_at"] for each in repeating} == {None}
    assert {each["explanation"] for each in repeating} == {
        f"Waiting for job {first['id']}, which asks for this one too."
    }


@pytest.mark.parametrize("media_type", [*BODIES, "application/json"])
def test_with_dedupe_false_each_line_is_asked_for(api: RunningApi, media_type: str) -> None:
    json_body = json.dumps({"kind": "check", "items": ITEMS, "dedupe": False}).encode()
    query = "?dedupe=false" if media_type in BODIES else ""

    batch = submit(api, BODIES.get(media_type, json_body), media_type, query)

    assert (batch["total"], batch["repeats"], batch["counts"]["accepted"]) == (4, 0, 4)


def test_what_dedupe_may_be_is_named(api: RunningApi) -> None:
    answer = api.client.post("/batches?dedupe=maybe", content=b"x", headers={"Content-Type": "text/plain"})

    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (400, "/query/dedupe")


def test_other_kinds_and_single_jobs_are_never_joined(api: RunningApi) -> None:
    batch = submit(api, BODIES["text/plain"], query="?kind=fetch")
    single = [
        api.client.post("/jobs", json={"kind": "check", "args": {"url": "http://a.example/x"}}).json()
        for _ in range(2)
    ]

    assert (batch["repeats"], batch["counts"]["accepted"]) == (0, 4)
    assert [job["state"] for job in single] == ["accepted"] * 2
    assert single[0]["same_as"] is None


def test_a_repeat_has_the_result_of_its_original_and_says_so(api: RunningApi) -> None:
    batch = submit(api, BODIES["text/plain"])
    first = jobs_of(api, batch)[0]
    result = {"verdict": "ok", "final_url": "http://a.example/x", "hops": [], "assertions": []}
    report = make_report(first["id"], JobState.SUCCEEDED, result=result)
    api.store.write(recording.record_reports, [report], now=NOON)

    api.store.write(repeats.answer_repeats, api.store.read(repeats.ended_originals, limit=1), now=NOON)

    answered = api.client.get(f"/jobs/{jobs_of(api, batch)[3]['id']}").json()
    assert (answered["state"], answered["same_as"], answered["attempts"]) == ("succeeded", first["id"], [])
    assert answered["result"]["final_url"] == "http://a.example/x#b"
    assert api.client.get(f"/jobs/{first['id']}").json()["same_as"] is None


def test_a_replay_of_a_batch_with_repeats_is_answered_word_for_word(api: RunningApi) -> None:
    headers = {"Content-Type": "text/plain", "Idempotency-Key": '"k"'}

    first, again = (
        api.client.post("/batches", content=BODIES["text/plain"], headers=headers) for _ in range(2)
    )

    assert first.json()["repeats"] == 2
    assert again.content == first.content


def test_a_run_of_a_schedule_asks_once_as_well(api: RunningApi) -> None:
    for dedupe, repeated in ((True, 2), (False, 0)):
        batch = {"kind": "check", "items": ITEMS, "dedupe": dedupe}
        schedule = api.client.post("/schedules", json={"every_seconds": 3600, "batch": batch}).json()

        run = api.client.post(f"/schedules/{schedule['id']}/run").json()

        made = api.client.get(f"/batches/{run['last_run']['batch_id']}").json()
        assert (made["total"], made["repeats"]) == (4, repeated)
