"""Tasks as agents meet them: picked, extended, finished, failed; and what is fenced off."""

from typing import Any

import httpx
import pytest

from producer.store import tasks
from shared.clock import utc_now
from tests.integration.test_api_tasks import faults, look_up, pick, submit
from tests.support.api import RunningApi


def post(api: RunningApi, task: dict[str, Any], what: str, **body: Any) -> httpx.Response:
    token = task.get("lease", {}).get("token")
    return api.client.post(f"/tasks/{task['id']}/{what}", json={"token": token} | body)


def test_a_pick_gives_all_that_an_agent_needs(api: RunningApi) -> None:
    submitted = submit(api, queue="films", ref="7", labels={"a": "b"}, retry={"max_attempts": 2})

    (task,) = pick(api, queue="films", agent="agent-1@host", lease_seconds=30)

    token = task["lease"].pop("token")
    assert len(token) >= 16
    assert task == {
        "id": submitted["id"],
        "queue": "films",
        "command": {"shell": "printf hi"},
        "payload": None,
        "run": 1,
        "attempt": 1,
        "max_attempts": 2,
        "labels": {"a": "b"},
        "ref": "7",
        "batch_id": None,
        "created_at": submitted["created_at"],
        "deadline_at": None,
        "lease": task["lease"],
    }
    shown = look_up(api, submitted)
    assert (shown["state"], shown["agent"], shown["attempt"]) == ("running", "agent-1@host", 1)
    assert shown["leased_until"] == task["lease"]["expires_at"]
    assert "on agent-1@host; its lease ends at" in shown["explanation"]
    assert token not in api.client.get(f"/tasks/{task['id']}").text + api.client.get("/jobs").text


def test_a_pick_without_a_body_takes_the_oldest_of_the_default_queue(api: RunningApi) -> None:
    first, _ = submit(api), submit(api)

    answer = api.client.post("/tasks/pick")

    assert [task["id"] for task in answer.json()["tasks"]] == [first["id"]]
    assert look_up(api, first)["agent"] == "anonymous"


def test_the_oldest_or_the_newest_come_first(api: RunningApi) -> None:
    ids = [submit(api)["id"] for _ in range(5)]

    assert [task["id"] for task in pick(api, max=2)] == ids[:2]
    assert [task["id"] for task in pick(api, max=2, order="newest")] == [ids[4], ids[3]]
    assert [task["id"] for task in pick(api, max=9, order="newest")] == [ids[2]]
    assert pick(api) == []


@pytest.mark.parametrize(
    ("body", "places"),
    [
        ({"max": 0}, ["/max"]),
        ({"max": 101}, ["/max"]),
        ({"max": "1"}, ["/max"]),
        ({"wait_seconds": 61}, ["/wait_seconds"]),
        ({"lease_seconds": 0.5}, ["/lease_seconds"]),
        ({"lease_seconds": 86_401}, ["/lease_seconds"]),
        ({"agent": "a b"}, ["/agent"]),
        ({"agent": ""}, ["/agent"]),
        ({"agent": "a" * 101}, ["/agent"]),
        ({"agent": "a\n"}, ["/agent"]),
        ({"queue": "ä"}, ["/queue"]),
        ({"queue": ["a"]}, ["/queue"]),
        ({"order": "best"}, ["/order"]),
        ({"wait": 5}, ["/wait"]),
    ],
)
def test_a_pick_that_is_wrong_is_refused_by_field(
    api: RunningApi, body: dict[str, Any], places: list[str]
) -> None:
    submit(api)

    assert faults(api.client.post("/tasks/pick", json=body)) == places


def test_an_agent_extends_shows_its_output_and_finishes(api: RunningApi) -> None:
    submit(api)
    (task,) = pick(api)

    extended = post(api, task, "extend", lease_seconds=600, output={"stdout": "10 %"})
    finished = post(api, task, "finish", exit_code=0, stdout="done\0", stderr="", output={"frames": 3})

    assert extended.status_code == 200, extended.text
    assert extended.json()["cancel_requested"] is False
    assert extended.json()["expires_at"] > task["lease"]["expires_at"]
    assert finished.status_code == 200, finished.text
    assert (finished.json()["state"], finished.json()["exit_code"]) == ("succeeded", 0)
    shown = look_up(api, task)
    assert shown["stdout"] == {
        "text": "done\N{REPLACEMENT CHARACTER}",
        "tail": "",
        "bytes": 5,
        "omitted_bytes": 0,
    }
    assert (shown["output"], shown["agent"], shown["leased_until"]) == ({"frames": 3}, "ann", None)
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["succeeded"]
    job = api.client.get(f"/jobs/{task['id']}").json()
    assert (job["result"]["agent"], job["result"]["output"]) == ("ann", {"frames": 3})


@pytest.mark.parametrize(
    ("body", "state", "reason", "exit_code"),
    [
        pytest.param({}, "succeeded", None, None, id="nothing"),
        pytest.param({"exit_code": 3}, "parked", "exit_3", 3, id="exit code"),
        pytest.param({"exit_code": 3, "outcome": "succeeded"}, "succeeded", None, 3, id="both"),
        pytest.param({"outcome": "failed"}, "parked", "agent_failed", None, id="failed"),
        pytest.param(
            {"outcome": "failed", "reason": "no_disk", "explanation": "Full."},
            "parked",
            "no_disk",
            None,
            id="why",
        ),
        pytest.param({"outcome": "cancelled"}, "cancelled", "cancelled", None, id="cancelled"),
    ],
)
def test_a_task_ends_as_its_agent_says(
    api: RunningApi, body: dict[str, Any], state: str, reason: str | None, exit_code: int | None
) -> None:
    submit(api)
    (task,) = pick(api)

    answer = post(api, task, "finish", **body)

    assert answer.status_code == 200, answer.text
    shown = look_up(api, task)
    assert (shown["state"], shown["reason"], shown["exit_code"]) == (state, reason, exit_code)
    assert shown["explanation"] == {"exit_3": "It ended with exit code 3.", "no_disk": "Full."}.get(
        str(reason), shown["explanation"]
    )


def test_a_failure_that_may_pass_is_tried_again_and_parked_after_the_last_attempt(api: RunningApi) -> None:
    submit(api, retry={"max_attempts": 2, "first_delay_seconds": 100, "jitter": False})
    (task,) = pick(api)

    answer = post(api, task, "fail", reason="disk_full", explanation="Full.", exit_code=1)

    assert (answer.json()["state"], answer.json()["reason"]) == ("delayed", "disk_full")
    shown = look_up(api, task)
    assert shown["attempts"][0]["wait_seconds"] == 100
    assert pick(api) == []
    api.store.write(tasks.make_ready, limit=10, now=utc_now().replace(year=2099))
    (again,) = pick(api)
    assert (again["attempt"], again["lease"]["token"] != task["lease"]["token"]) == (2, True)
    assert post(api, again, "fail").json()["state"] == "parked"


def test_each_attempt_says_which_agent_made_it(api: RunningApi) -> None:
    submit(api, retry={"max_attempts": 3})
    (task,) = pick(api, agent="first")
    with api.store.writing() as connection:
        tasks.expire_leases(connection, limit=10, now=utc_now().replace(year=2099))
    (again,) = pick(api, agent="second")

    shown = look_up(api, task)

    assert shown["agent"] == "second"
    for attempts in (shown["attempts"], api.client.get(f"/jobs/{again['id']}").json()["attempts"]):
        assert [(attempt["worker"], attempt["reason"]) for attempt in attempts] == [
            ("first", "lease_expired"),
            ("second", None),
        ]


def test_a_failure_for_good_is_parked_at_once_and_can_be_redriven(api: RunningApi) -> None:
    submit(api)
    (task,) = pick(api)

    assert post(api, task, "fail", transient=False).json()["state"] == "parked"

    assert api.client.post(f"/jobs/{task['id']}/redrive").status_code == 202
    (again,) = pick(api)
    assert (again["id"], again["run"], again["attempt"]) == (task["id"], 2, 1)


def test_an_agent_is_told_of_an_abort_and_ends_the_task(api: RunningApi) -> None:
    submit(api)
    (task,) = pick(api)

    aborted = api.client.post(f"/tasks/{task['id']}/abort").json()

    assert (aborted["state"], aborted["cancel_requested"]) == ("running", True)
    assert "its agent is told to cancel it" in aborted["explanation"]
    assert post(api, task, "extend").json()["cancel_requested"] is True
    assert post(api, task, "finish", outcome="cancelled").json()["state"] == "cancelled"
    assert look_up(api, task)["cancel_requested"] is False


def test_what_was_said_may_be_said_again_and_nothing_else(api: RunningApi) -> None:
    submit(api)
    (task,) = pick(api)

    first = post(api, task, "finish", exit_code=0)
    again = post(api, task, "finish", exit_code=0)
    others = [
        post(api, task, "finish", outcome="failed"),
        post(api, task, "fail"),
        post(api, task, "extend"),
    ]

    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    assert [answer.status_code for answer in others] == [409, 409, 409]
    assert {answer.json()["type"] for answer in others} == {"urn:retriever:lease-lost"}
    assert look_up(api, task)["state"] == "succeeded"


@pytest.mark.parametrize("what", ["extend", "finish", "fail"])
def test_a_foreign_or_late_token_is_refused_and_changes_nothing(api: RunningApi, what: str) -> None:
    submit(api)
    (task,) = pick(api)

    foreign = api.client.post(f"/tasks/{task['id']}/{what}", json={"token": "0123456789"})
    assert (foreign.status_code, foreign.json()["type"]) == (409, "urn:retriever:lease-lost")
    later = utc_now().replace(year=2099)
    with api.store.writing() as connection:
        tasks.expire_leases(connection, limit=10, now=later)
    (again,) = pick(api)
    late = post(api, task, what)

    assert (late.status_code, again["attempt"]) == (409, 2)
    shown = look_up(api, task)
    assert (shown["state"], shown["attempt"], shown["attempts"][0]["reason"]) == (
        "running",
        2,
        "lease_expired",
    )


@pytest.mark.parametrize(
    ("what", "body", "places"),
    [
        ("finish", {"token": None}, ["/token"]),
        ("finish", {"token": ""}, ["/token"]),
        ("finish", {"outcome": "delayed"}, ["/outcome"]),
        ("finish", {"output": {"a": ["\0"]}}, ["/output/a/0"]),
        ("finish", {"exit_code": "0"}, ["/exit_code"]),
        ("fail", {"reason": "not a code"}, ["/reason"]),
        ("fail", {"retry_after_seconds": -1}, ["/retry_after_seconds"]),
        ("fail", {"transcient": False}, ["/transcient"]),
        ("extend", {"lease_seconds": 0}, ["/lease_seconds"]),
        ("extend", {"output": {"stdou": "a"}}, ["/output/stdou"]),
    ],
)
def test_what_an_agent_says_wrongly_is_refused_by_field(
    api: RunningApi, what: str, body: dict[str, Any], places: list[str]
) -> None:
    submit(api)
    (task,) = pick(api)

    assert faults(post(api, task, what, **body)) == places
    assert look_up(api, task)["state"] == "running"


@pytest.mark.parametrize(
    ("stdout", "place"),
    [
        pytest.param(5, "/stdout", id="number"),
        pytest.param(["a"], "/stdout", id="list"),
        pytest.param({"text": "a", "bytes": -1}, "/stdout/bytes", id="negative"),
        pytest.param({"text": "a" * 131_073}, "/stdout/text", id="long"),
    ],
)
def test_output_that_is_none_is_refused_by_field(api: RunningApi, stdout: object, place: str) -> None:
    submit(api)
    (task,) = pick(api)

    assert faults(post(api, task, "finish", stdout=stdout)) == [place]
    assert faults(post(api, task, "extend", output={"stdout": stdout})) == [f"/output{place}"]


def test_nul_counts_as_the_byte_that_it_was(api: RunningApi) -> None:
    submit(api)
    (task,) = pick(api)

    post(api, task, "finish", stdout="\0" * 150_000, stderr={"text": "a\0", "bytes": 2})

    found = look_up(api, task)
    assert found["stdout"]["text"] == found["stdout"]["tail"] == "\N{REPLACEMENT CHARACTER}" * 65_536
    assert (found["stdout"]["bytes"], found["stdout"]["omitted_bytes"]) == (150_000, 150_000 - 131_072)
    assert found["stderr"]["text"] == "a\N{REPLACEMENT CHARACTER}"


def test_of_a_long_output_beginning_and_end_are_kept(api: RunningApi) -> None:
    submit(api)
    (task,) = pick(api)

    post(api, task, "finish", stdout="a" * 150_000 + "ä" * 150_000)

    stdout = look_up(api, task)["stdout"]
    assert (stdout["text"], stdout["tail"]) == ("a" * 65_536, "ä" * 65_536)
    assert stdout["bytes"] == 450_000
    assert stdout["omitted_bytes"] == 450_000 - 65_536 - 2 * 65_536
