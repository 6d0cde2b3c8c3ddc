"""Nothing of one project is there for another: every operation of the contract is tried with others' ids."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from producer.api.contract import load_contract
from producer.api.routes import METHODS
from tests.support.api import RunningApi
from tests.support.projects import HOST, QUEUE, REF, URL, Belongings, Callers, fill, keys_of, rows_of
from tests.support.waiting import eventually

THEIRS: Final = "theirs"
# The second has nothing either, but is the one that all is of which nobody gave a project.
OTHERS: Final = ("ours", "default")

CONTRACT = load_contract()


def _filters(*parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of the parameters of a list that say what to list."""
    named = CONTRACT["components"]["parameters"]
    resolved = [named[each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in parameters]
    names = [each["name"] for each in resolved if each["in"] == "query"]
    return [name for name in names if name not in {"limit", "cursor"}]


# Method, path, filters.
OPERATIONS: Mapping[str, tuple[str, str, list[str]]] = {
    item[method]["operationId"]: (method.upper(), path, _filters(*item[method].get("parameters", ())))
    for path, item in CONTRACT["paths"].items()
    for method in METHODS
    if method in item
}
# What takes part of a caller's own work; what two projects do with it is tried by itself.
SUBMISSIONS = {"submit_job", "submit_batch", "submit_task", "submit_schedule", "pick_tasks"}
SUBMISSIONS |= {"create_key", "create_secret"}
BULK_ACTIONS = {"redrive_parked", "discard_parked"}
# Of the installation, and the same for all.
COMMON = {"list_kinds", "get_retention", "livez", "readyz", "metrics"}
# What test files of their own try.
TRIED_ELSEWHERE = {"stream_events", "begin_operation", "get_stats"}
FOR_OPERATORS = {"pause_kind", "resume_kind", "pause_lane", "resume_lane"}
HOSTS = {"list_hosts", "get_host", "set_host_limit", "clear_host_limit"}
# By the name of a project; test_api_project_limits.py tries them.
LIMITS = {"get_own_limits", "get_limits", "set_limits"}
BY_ID = {name for name, (_, path, _) in OPERATIONS.items() if "_id}" in path}
# A caller finds the own key in it.
WITH_OWN = {"list_keys"}
LISTS = {name for name in OPERATIONS if name.startswith("list_")} - BY_ID - COMMON - WITH_OWN
LISTS -= HOSTS


@pytest.fixture(scope="module")
def api(module_api: RunningApi) -> RunningApi:
    """Return one API for all tests: none of them changes what is of the other project."""
    return module_api


@pytest.fixture(scope="module")
def callers(api: RunningApi) -> Callers:
    """Return the callers, each with a key."""
    return Callers(api)


@pytest.fixture(scope="module")
def theirs(api: RunningApi, callers: Callers) -> Belongings:
    """Return what the other project has."""
    return fill(api, callers, THEIRS)


@pytest.fixture(autouse=True)
def _unchanged(api: RunningApi, theirs: Belongings) -> Iterator[None]:
    before, keys_before = rows_of(api.store, THEIRS), keys_of(api, THEIRS)
    assert all(before[name] for name in ("jobs", "batches", "schedules", "operations", "audit", "bodies"))
    assert keys_before
    yield
    assert rows_of(api.store, THEIRS) == before
    assert keys_of(api, THEIRS) == keys_before


def test_every_operation_of_the_contract_is_tried() -> None:
    groups = (
        BY_ID,
        LISTS,
        WITH_OWN,
        SUBMISSIONS,
        BULK_ACTIONS,
        COMMON,
        TRIED_ELSEWHERE,
        FOR_OPERATORS,
        HOSTS,
        LIMITS,
    )

    assert sorted(name for group in groups for name in group) == sorted(OPERATIONS)


@pytest.mark.parametrize("project", OTHERS)
@pytest.mark.parametrize("operation", sorted(BY_ID))
def test_an_id_of_another_project_is_as_unknown_as_one_that_nobody_has(
    api: RunningApi, callers: Callers, theirs: Belongings, operation: str, project: str
) -> None:
    method, path, _ = OPERATIONS[operation]
    bodies = {
        "extend_lease": {"token": theirs.token},
        "finish_task": {"token": theirs.token},
        "fail_task": {"token": theirs.token},
        "replace_secret": {"value": "ours"},
    }

    def ask(row_id: str, caller: str | None) -> httpx.Response:
        return api.client.request(
            method, _with_id(path, row_id), headers=callers.of(caller), json=bodies.get(operation)
        )

    unknown = ask(str(uuid4()), project)
    answers = [ask(row_id, project) for row_id in _ids_for(path, theirs)]

    assert unknown.status_code == 404 and unknown.json()["type"].endswith("-not-found")
    assert [(each.status_code, each.json()) for each in answers] == [(404, unknown.json())] * len(answers)
    if method == "GET":
        # Their own caller, and an operator, find them.
        for caller in (THEIRS, None):
            assert any(ask(row_id, caller).status_code == 200 for row_id in _ids_for(path, theirs))


@pytest.mark.parametrize("project", OTHERS)
@pytest.mark.parametrize("operation", sorted(LISTS))
def test_a_list_shows_nothing_of_another_project_whatever_is_asked_for(
    api: RunningApi, callers: Callers, theirs: Belongings, operation: str, project: str
) -> None:
    _, path, filters = OPERATIONS[operation]
    values = {
        "batch_id": theirs.batch,
        "batch": theirs.batch,
        "created_after": "2020-01-01T00:00:00Z",
        "created_before": "2099-01-01T00:00:00Z",
        "host": HOST,
        "kind": "check",
        "label": "team:theirs",
        "parked_after": "2020-01-01T00:00:00Z",
        "parked_before": "2099-01-01T00:00:00Z",
        "queue": QUEUE,
        "reason": "http_503",
        "ref": REF,
        "schedule": theirs.schedule,
        "schedule_id": theirs.schedule,
        "state": "queued",
        "target": f"schedule/{theirs.schedule}",
        "url": "secret",
    }

    for query in ({}, *({name: values[name]} for name in filters)):
        seen = [
            api.client.get(path, params=query, headers=callers.of(caller))
            for caller in (project, THEIRS, None)
        ]
        documents = [each.json() for each in seen]

        assert [each.status_code for each in seen] == [200, 200, 200], (query, seen[0].text)
        # That its key was made is in the log of a project too.
        foreign = [each for each in documents[0]["items"] if each.get("project") != project]
        assert foreign == [] and documents[0].get("next") is None, query
        assert documents[0]["items"] == [] or (operation, query) == ("list_audit", {})
        assert documents[0].get("total_jobs", 0) == documents[0].get("total_groups", 0) == 0
        # Otherwise the filter finds nothing in any case.
        assert documents[1]["items"] and documents[2]["items"], query


@pytest.mark.parametrize("operation", sorted(BULK_ACTIONS))
def test_a_bulk_action_finds_no_job_of_another_project(
    api: RunningApi, callers: Callers, theirs: Belongings, operation: str
) -> None:
    _, path, _ = OPERATIONS[operation]
    (group,) = api.client.get("/parked", headers=callers.of(THEIRS)).json()["items"]
    filters: list[dict[str, Any]] = [
        {"older_than_seconds": 0},
        {"group": group["group"]},
        {"batch_id": theirs.batch},
        {"kind": "check"},
        {"host": HOST},
        {"reason": "http_503"},
        {"parked_after": "2020-01-01T00:00:00Z"},
        {"parked_before": "2099-01-01T00:00:00Z"},
        {"ids": list(theirs.jobs)},
        {"ids": list(theirs.jobs), "batch_id": theirs.batch},
    ]
    assert {name for each in filters for name in each} == _names_of("ParkedJobFilter")
    listed = "\n".join(theirs.jobs).encode()
    as_text = {"Content-Type": "text/plain"}

    def count(caller: str | None) -> list[int]:
        asked = [
            api.client.post(path, json={"filter": each, "dry_run": True}, headers=callers.of(caller))
            for each in filters
        ]
        asked.append(
            api.client.post(f"{path}?dry_run=true", content=listed, headers={**as_text, **callers.of(caller)})
        )
        return [each.json()["matching"] for each in asked]

    # Not those whose lists are looked at: they have operations then.
    begun = [api.client.post(path, json={"filter": each}, headers=callers.of("acting")) for each in filters]
    begun.append(api.client.post(path, content=listed, headers={**as_text, **callers.of("acting")}))
    mine = api.client.get("/operations", headers=callers.of("acting")).json()["items"]

    assert [count(project) for project in OTHERS] == [[0] * (len(filters) + 1)] * len(OTHERS)
    assert [(each.status_code, each.json()["total"]) for each in begun] == [(202, 0)] * len(begun)
    assert {each["id"] for each in mine} >= {each.json()["id"] for each in begun}
    assert theirs.operation not in {each["id"] for each in mine}
    assert all(number > 0 for number in count(THEIRS) + count(None))


def test_an_agent_of_another_project_gets_no_task_and_an_operator_s_agent_none_either(
    api: RunningApi, callers: Callers, theirs: Belongings
) -> None:
    for project in (*OTHERS, None):
        asked = {"queue": QUEUE, "agent": "ours", "max": 9, "wait_seconds": 0.05}
        answer = api.client.post("/tasks/pick", json=asked, headers=callers.of(project))

        assert (answer.status_code, answer.json()) == (200, {"tasks": []})
    # What waits there says nothing of these agents.
    task = next(each for each in theirs.jobs[-2:] if each != theirs.task)
    said = api.client.get(f"/tasks/{task}", headers=callers.of(THEIRS)).json()["explanation"]
    assert "theirs asked" in said and "ours" not in said


def test_a_project_lists_its_own_keys_alone(api: RunningApi, callers: Callers, theirs: Belongings) -> None:
    for project in OTHERS:
        listed = api.client.get("/keys", headers=callers.of(project)).json()["items"]

        assert [key["project"] for key in listed] == [project]
    everybody = api.client.get("/keys", headers=callers.of(None)).json()["items"]
    assert {*OTHERS, None, THEIRS} <= {key["project"] for key in everybody}
    assert theirs.key in {key["id"] for key in everybody}


async def test_an_agent_that_waits_is_woken_for_a_task_of_its_project_alone(
    api: RunningApi, callers: Callers
) -> None:
    def pick(project: str, wait_seconds: float) -> list[str]:
        asked = {"queue": "films", "agent": project, "wait_seconds": wait_seconds}
        answer = api.client.post("/tasks/pick", json=asked, headers=callers.of(project))
        return [task["id"] for task in answer.json()["tasks"]]

    def hand_in(project: str) -> str:
        answer = api.client.post("/tasks", json={"payload": 1, "queue": "films"}, headers=callers.of(project))
        return str(answer.json()["id"])

    async def is_waiting() -> bool:
        metrics = await asyncio.to_thread(api.client.get, "/metrics", headers=callers.of(None))
        return "retriever_task_waiters 1.0" in metrics.text

    # Far longer than the test: whoever is answered was woken.
    mine = asyncio.create_task(asyncio.to_thread(pick, "mine", 60))
    await eventually(is_waiting)
    foreign = await asyncio.to_thread(hand_in, "yours")
    # It is there, and the agent that has waited longest is of another project.
    given = await asyncio.to_thread(pick, "yours", 0)
    own = await asyncio.to_thread(hand_in, "mine")

    assert given == [foreign]
    assert await mine == [own]


@pytest.mark.parametrize("operation", sorted(FOR_OPERATORS))
def test_only_an_operator_pauses_what_is_everybody_s(
    api: RunningApi, callers: Callers, operation: str
) -> None:
    _, path, _ = OPERATIONS[operation]
    path = path.replace("{kind}", "webhook").replace("{lane}", "bulk")

    refused = [api.client.post(path, headers=callers.of(project)) for project in OTHERS]

    assert [each.status_code for each in refused] == [403, 403]
    assert all("only an operator" in each.json()["detail"] for each in refused)
    for allowed in (path, path.replace("/pause", "/resume")):
        assert api.client.post(allowed, headers=callers.of(None)).status_code == 200


@pytest.mark.parametrize("operation", sorted(HOSTS))
def test_only_an_operator_sees_and_limits_hosts(api: RunningApi, callers: Callers, operation: str) -> None:
    method, path, _ = OPERATIONS[operation]
    path, limit = path.replace("{host}", "a.example"), {"concurrency": 4}
    body = limit if method == "PUT" else None

    refused = [api.client.request(method, path, headers=callers.of(project), json=body) for project in OTHERS]

    assert [each.status_code for each in refused] == [403, 403]
    assert all("only an operator" in each.json()["detail"] for each in refused)
    api.client.put("/hosts/a.example/limit", headers=callers.of(None), json=limit).raise_for_status()
    assert api.client.request(method, path, headers=callers.of(None), json=body).status_code == 200


def test_what_is_everybody_s_tells_nothing_of_the_jobs_of_a_project(
    api: RunningApi, callers: Callers
) -> None:
    for operation in sorted(COMMON):
        _, path, _ = OPERATIONS[operation]

        answer = api.client.get(path, headers=callers.of("ours"))

        assert answer.status_code == 200
        assert not any(secret in answer.text for secret in (HOST, REF, URL))


@pytest.mark.parametrize(
    "operation", sorted({"submit_job", "submit_batch", "submit_task", "submit_schedule"})
)
def test_an_idempotency_key_is_another_one_in_each_project(
    api: RunningApi, callers: Callers, operation: str
) -> None:
    _, path, _ = OPERATIONS[operation]
    key = {"Idempotency-Key": f"{operation} of all"}
    check = {"kind": "check", "args": {"url": "https://a.example/"}}
    submissions: dict[str, dict[str, Any]] = {
        "submit_job": check,
        "submit_batch": {"kind": "check", "items": [check["args"]]},
        "submit_task": {"payload": 1},
        "submit_schedule": {"every_seconds": 3_600, "job": check},
    }
    asked = submissions[operation]

    first, again, other, conflict = (
        api.client.post(path, json=document, headers={**key, **callers.of(project)})
        for project, document in (
            ("mine", asked),
            ("mine", asked),
            ("yours", {**asked, "labels": {"team": "web"}}),
            ("mine", {**asked, "labels": {"team": "web"}}),
        )
    )

    assert first.is_success and again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert other.is_success and other.json()["id"] != first.json()["id"]
    assert conflict.status_code == 409
    assert not any(each.json()["id"] in conflict.text for each in (first, other))


def test_a_unique_window_is_another_one_in_each_project(api: RunningApi, callers: Callers) -> None:
    asked = {"kind": "check", "args": {"url": "https://once.example/"}, "unique_for_seconds": 600}

    made = [
        api.client.post("/jobs", json=asked, headers=callers.of(project))
        for project in ("mine", "yours", "mine")
    ]

    assert [each.status_code for each in made] == [202, 202, 200]
    assert made[0].json()["id"] != made[1].json()["id"]
    assert made[2].json()["duplicate_of"] == made[0].json()["id"]


def _with_id(path: str, row_id: str) -> str:
    begin, _, rest = path.partition("{")
    return f"{begin}{row_id}{rest.partition('}')[2]}"


def _ids_for(path: str, theirs: Belongings) -> list[str]:
    return {
        "job_id": [*theirs.jobs],
        # A job that is no task, too: that it is there must not be told.
        "task_id": [*theirs.jobs],
        "batch_id": [theirs.batch, theirs.pages_batch],
        "schedule_id": [theirs.schedule],
        "operation_id": [theirs.operation],
        "key_id": [theirs.key],
        "secret_id": [theirs.secret],
    }[path.partition("{")[2].partition("}")[0]]


def _names_of(schema: str) -> set[str]:
    return set(CONTRACT["components"]["schemas"][schema]["properties"])
