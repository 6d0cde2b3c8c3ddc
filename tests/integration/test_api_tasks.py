"""Tasks as everybody meets them: handed in, looked up, listed, aborted. They are jobs, too."""

from typing import Any

import httpx
import pytest

from tests.support.api import RunningApi

COMMAND = {"argv": ["printf", "hi"]}


def submit(api: RunningApi, **fields: Any) -> dict[str, Any]:
    """Return a task that was taken."""
    answer = api.client.post("/tasks", json={"command": "printf hi"} | fields)
    assert answer.status_code == 202, answer.text
    task: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/tasks/{task['id']}"
    return task


def pick(api: RunningApi, **fields: Any) -> list[dict[str, Any]]:
    answer = api.client.post("/tasks/pick", json={"agent": "ann"} | fields)
    assert answer.status_code == 200, answer.text
    tasks: list[dict[str, Any]] = answer.json()["tasks"]
    return tasks


def look_up(api: RunningApi, task: dict[str, Any]) -> dict[str, Any]:
    answer = api.client.get(f"/tasks/{task['id']}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def faults(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 400, answer.text
    return [error["loc"] for error in answer.json()["errors"]]


def test_a_task_waits_for_agents_from_its_submission_on(api: RunningApi) -> None:
    task = submit(api, queue="films", labels={"team": "a"}, ref="film 7", expires_after_seconds=60)

    assert task["state"] == "queued"
    assert task["queue"] == "films"
    assert task["command"] == {"shell": "printf hi"}
    assert task["explanation"] == "Waiting in task queue films for an agent to pick it."
    found = look_up(api, task)
    assert found["explanation"].startswith(
        "In task queue films, where 1 task waits for agents; none has asked "
    )
    assert {**found, "explanation": task["explanation"]} == task
    job = api.client.get(f"/jobs/{task['id']}").json()
    assert (job["kind"], job["state"], job["explanation"]) == ("task", "queued", found["explanation"])
    assert job["args"] == {"queue": "films", "command": {"shell": "printf hi"}}
    assert (task["labels"], task["ref"]) == ({"team": "a"}, "film 7")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        pytest.param("printf hi", {"shell": "printf hi"}, id="line"),
        pytest.param(["printf", "hi"], {"argv": ["printf", "hi"]}, id="argv"),
        pytest.param(
            {"argv": ["a"], "timeout_seconds": 7}, {"argv": ["a"], "timeout_seconds": 7.0}, id="object"
        ),
    ],
)
def test_a_command_is_a_line_or_a_program_or_all_that_commands_may_say(
    api: RunningApi, said: object, kept: object
) -> None:
    assert submit(api, command=said)["command"] == kept


@pytest.mark.parametrize("payload", [{"film": 7}, [1, 2], "text", 7, False, 0, "", {}])
def test_a_payload_is_any_json(api: RunningApi, payload: object) -> None:
    task = submit(api, command=None, payload=payload)

    assert (task["payload"], task["command"]) == (payload, None)
    assert pick(api)[0]["payload"] == payload


@pytest.mark.parametrize(
    ("body", "places"),
    [
        ({}, [""]),
        ({"command": "a", "payload": 1}, [""]),
        ({"command": {"argv": []}}, ["/command/argv"]),
        ({"command": []}, ["/command/argv"]),
        ({"command": {"argv": ["a"], "timeout_seconds": 0}}, ["/command/timeout_seconds"]),
        ({"command": 7}, ["/command"]),
        ({"command": "a\0b"}, ["/command/shell"]),
        ({"command": "a", "queue": "a b"}, ["/queue"]),
        ({"command": "a", "queue": ""}, ["/queue"]),
        ({"command": "a", "comand": "a"}, ["/comand"]),
        ({"command": "a", "labels": {"a b": "c"}}, ["/labels/a b"]),
        ({"payload": {"a": "\0"}}, ["/payload/a"]),
        ({"command": "a", "delay_seconds": -1}, ["/delay_seconds"]),
        ({"kind": "task", "args": {}}, ["/kind", "/args"]),
    ],
)
def test_a_task_that_is_wrong_is_refused_by_field(
    api: RunningApi, body: dict[str, Any], places: list[str]
) -> None:
    answer = api.client.post("/tasks", json=body)

    assert sorted(faults(answer)) == sorted(places)
    assert api.client.get("/tasks").json()["items"] == []


def test_the_same_request_makes_one_task_and_asks_for_the_same_once(api: RunningApi) -> None:
    first = api.client.post("/tasks", json={"command": "a"}, headers={"Idempotency-Key": "k"})
    again = api.client.post("/tasks", json={"command": "a"}, headers={"Idempotency-Key": "k"})
    unique = api.client.post("/tasks", json={"command": "a", "unique_for_seconds": 60})

    assert again.content == first.content
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == f"/tasks/{first.json()['id']}"
    assert unique.status_code == 200
    assert unique.json()["duplicate_of"] == first.json()["id"]
    assert unique.headers["Location"] == first.headers["Location"]
    assert len(api.client.get("/tasks").json()["items"]) == 1


def test_a_task_of_later_is_not_picked_before_its_time(api: RunningApi) -> None:
    task = submit(api, delay_seconds=3_600)

    assert (task["state"], task["due_at"] is None) == ("scheduled", False)
    assert pick(api) == []


def test_tasks_are_listed_by_queue_state_ref_and_label(api: RunningApi) -> None:
    films = submit(api, queue="films", ref="7", labels={"team": "a"})
    mail = submit(api, queue="mail")
    api.client.post("/jobs", json={"kind": "check", "args": {"url": "http://a.example/"}})

    def listed(**query: str) -> list[str]:
        answer = api.client.get("/tasks", params=query)
        assert answer.status_code == 200, answer.text
        return [task["id"] for task in answer.json()["items"]]

    assert listed() == [mail["id"], films["id"]]
    assert listed(queue="films") == listed(ref="7") == listed(label="team:a") == [films["id"]]
    assert listed(state="running") == listed(queue="songs") == []
    pick(api, queue="films")
    assert listed(state="running") == [films["id"]]
    first = api.client.get("/tasks", params={"limit": 1}).json()
    assert [task["id"] for task in first["items"]] == [mail["id"]]
    assert listed(limit="1", cursor=first["next"]) == [films["id"]]
    assert faults(api.client.get("/tasks", params={"queue": "a b"})) == ["/query/queue"]


def test_tasks_come_in_batches_and_as_jobs_too(api: RunningApi) -> None:
    answer = api.client.post(
        "/batches",
        json={"kind": "task", "defaults": {"queue": "films"}, "items": [{"payload": 1}, {"payload": 2}, {}]},
    )
    job = api.client.post("/jobs", json={"kind": "task", "args": {"command": COMMAND}}).json()

    batch = answer.json()
    assert (batch["total"], batch["rejected"]["count"]) == (2, 1)
    assert api.client.get(f"/batches/{batch['id']}").json()["counts"]["queued"] == 2
    picked = pick(api, queue="films", max=10)
    assert [task["payload"] for task in picked] == [1, 2]
    assert {task["batch_id"] for task in picked} == {batch["id"]}
    assert api.client.get(f"/batches/{batch['id']}").json()["counts"]["running"] == 2
    assert [task["id"] for task in pick(api)] == [job["id"]]


def test_a_waiting_task_is_aborted_at_once(api: RunningApi) -> None:
    task = submit(api)

    answers = [api.client.post(f"/tasks/{task['id']}/abort") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["state"] == "cancelled"
    assert answers[1].json() == answers[0].json() == look_up(api, task)
    assert answers[0].headers["Location"] == f"/tasks/{task['id']}"
    assert pick(api) == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/tasks/{id}"),
        ("POST", "/tasks/{id}/abort"),
        ("POST", "/tasks/{id}/extend"),
        ("POST", "/tasks/{id}/finish"),
        ("POST", "/tasks/{id}/fail"),
    ],
)
def test_what_is_no_task_is_not_found_and_says_so(api: RunningApi, method: str, path: str) -> None:
    check = api.client.post("/jobs", json={"kind": "check", "args": {"url": "http://a.example/"}}).json()
    body = {"token": "t"} if path.endswith(("extend", "finish", "fail")) else None

    def ask(task_id: str) -> httpx.Response:
        return api.client.request(method, path.format(id=task_id), json=body)

    for unknown in ("0199aa3e-7c1b-7d4e-9f00-3b1f6c2a9d10", "7"):
        answer = ask(unknown)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:retriever:job-not-found")
    answer = ask(check["id"])
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:retriever:not-a-task")
    assert "of kind check" in answer.json()["detail"].replace("of the kind", "of kind")
    assert api.client.get(f"/jobs/{check['id']}").json()["state"] == "accepted"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_pick_by_get_is_refused_and_told_why(api: RunningApi, method: str) -> None:
    task = submit(api)

    answer = api.client.request(method, "/tasks/pick")

    assert (answer.status_code, answer.headers["Allow"]) == (405, "OPTIONS, POST")
    assert method == "HEAD" or "A pick changes state" in answer.json()["detail"]
    assert look_up(api, task)["state"] == "queued"


def test_metrics_show_the_queues_and_what_agents_did(api: RunningApi) -> None:
    for _ in range(3):
        submit(api, queue="shown")
    (picked,) = pick(api, queue="shown")
    token = picked["lease"]["token"]
    api.client.post(f"/tasks/{picked['id']}/finish", json={"token": token})
    api.client.post(f"/tasks/{picked['id']}/finish", json={"token": token})

    text = api.client.get("/metrics").text

    assert 'retriever_task_picks_total{queue="shown"} 1.0' in text
    assert 'retriever_task_seconds_count{outcome="succeeded",queue="shown"} 1.0' in text
    assert "retriever_task_waiters 0.0" in text
