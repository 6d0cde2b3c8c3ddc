"""What one project has in a running API: of everything that has an id, something."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.keys import ApiKey
from producer.store import keys, outbox, recording
from producer.store.database import Database
from producer.store.schema import jobs, metadata
from shared.clock import utc_now
from shared.identity import derived_id
from shared.kinds.command import OutputSnapshot, OutputText
from shared.kinds.pages import PagePlace, PageReport
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.bodies import compress_body
from tests.support.factories import make_report
from tests.support.keys import bearer, make_key

HOST = "theirs.example"
URL = f"https://{HOST}/secret"
REF = "their row 7"
LABELS = {"team": "theirs"}
QUEUE = "their-queue"
# Others may change these.
_OF_NOBODY = {
    "idempotency_keys",
    "pauses",
    "rate_demands",
    "revisions",
    "schema_compatibility",
    "task_queues",
    "hosts",
}
# When a key was used is noted beside it; `keys_of` looks at the rest.
_KEYS = {"api_keys", "api_key_secrets", "secret_keys"}


class Callers:
    """Callers of an API, each with a key of its project and every scope, made when it is needed."""

    def __init__(self, api: RunningApi) -> None:
        self._store = api.store
        self._keys: dict[str | None, str] = {}

    def of(self, project: str | None) -> dict[str, str]:
        """Return the headers of a caller of a project; None for an operator."""
        if project not in self._keys:
            self._keys[project] = make_key(self._store, f"of-{project}", project=project)
        return bearer(self._keys[project])


@dataclass(frozen=True, slots=True)
class Belongings:
    """The ids of what a project has.

    Attributes:
        jobs: One of each sort; the parked one first.
        token: Of the lease on `task`, which runs.
    """

    jobs: Sequence[str]
    batch: str
    pages_batch: str
    schedule: str
    operation: str
    task: str
    token: str
    key: str
    secret: str


def fill(api: RunningApi, callers: Callers, project: str) -> Belongings:
    """Hand in something of every sort for a project, and let it come to something."""
    headers = callers.of(project)

    def post(path: str, document: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = api.client.post(path, json=document, headers=headers)
        assert answer.is_success, answer.text
        said: dict[str, Any] = answer.json()
        return said

    def job(kind: str, args: Mapping[str, Any]) -> str:
        asked = {"kind": kind, "args": args, "ref": REF, "labels": LABELS}
        job_id = str(post("/jobs", asked)["id"])
        api.store.write(outbox.mark_queued, [(UUID(job_id), 1)], now=utc_now())
        return job_id

    parked, waiting = job("check", {"url": URL}), job("check", {"url": f"{URL}/2"})
    fetched, command = job("fetch", {"url": URL}), job("command", {"argv": ["make"]})
    root = job("fetch", {"url": URL, "pages": {"by": "page", "items": "@"}})
    items = [{"url": f"{URL}/{n}", "ref": REF} for n in range(3)]
    batch = post("/batches", {"kind": "check", "labels": LABELS, "items": [*items, {"ref": REF}]})["id"]
    of_batch = api.client.get("/jobs", params={"batch_id": batch}, headers=headers).json()["items"][0]["id"]
    every_hour = {"every_seconds": 3_600, "job": {"kind": "check", "args": {"url": URL}}}
    schedule = post("/schedules", every_hour)["id"]
    made = post(f"/schedules/{schedule}/run")["last_run"]["job_id"]
    tasks = [
        post("/tasks", {"payload": n, "queue": QUEUE, "ref": REF, "labels": LABELS})["id"] for n in (1, 2)
    ]
    (picked,) = post("/tasks/pick", {"queue": QUEUE, "agent": "theirs"})["tasks"]
    _let_end(api, parked=[parked, of_batch], fetched=fetched, command=command, root=root)
    wanted = {"filter": {"host": HOST, "batch_id": batch}, "rate_per_second": 1}
    operation = post("/parked/redrive", wanted)["id"]
    every = [parked, waiting, fetched, command, root, str(derived_id(UUID(root), 1)), of_batch, made, *tasks]
    pages_batch = str(derived_id(UUID(root), 0))
    (key,) = api.client.get("/keys", headers=headers).json()["items"]
    token = picked["lease"]["token"]
    kept = {"name": "theirs", "origins": [f"https://{HOST}"], "value": "their secret"}
    secret = post("/secrets", kept)["id"]
    return Belongings(every, batch, pages_batch, schedule, operation, picked["id"], token, key["id"], secret)


def rows_of(store: Database, project: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that is stored of a project or of its jobs, and all of which nothing says whose it is."""
    found = {}
    with store.reading() as connection:
        for table in metadata.sorted_tables:
            if table.name in _OF_NOBODY | _KEYS:
                continue
            rows = sa.select(table)
            if "project" in table.c:
                rows = rows.where(table.c.project == project)
            elif "job_id" in table.c:
                rows = rows.where(table.c.job_id.in_(sa.select(jobs.c.id).where(jobs.c.project == project)))
            found[table.name] = sorted((tuple(row) for row in connection.execute(rows)), key=repr)
    return found


def keys_of(api: RunningApi, project: str) -> list[ApiKey]:
    """Return the keys of a project, but for when they were used."""
    found = api.store.read(keys.list_keys, project=project, limit=100, after=None)
    return [replace(key, last_used_at=None) for key in found.records]


def _let_end(api: RunningApi, *, parked: Sequence[str], fetched: str, command: str, root: str) -> None:
    failed = [make_report(UUID(each), JobState.PARKED, started_at=utc_now()) for each in parked]
    body = compress_body(b"their body" * 9_999, content_type="text/plain", charset="utf-8")
    seen = {"status": 200, "final_url": URL, "etag": '"1"', "hops": [], "content_type": "text/plain"}
    success = make_report(UUID(fetched), JobState.SUCCEEDED, kind="fetch", result=seen)
    output = OutputSnapshot(sequence=1, stdout=OutputText(text="their output", bytes=12))
    running = make_report(UUID(command), JobState.RUNNING, kind="command")
    page = make_report(
        UUID(root), JobState.SUCCEEDED, kind="fetch", result={"data": ["their item"], "page": {}}
    )
    told = PageReport(items=1, following=PagePlace(index=1))
    reports = [
        *failed,
        success.model_copy(update={"body": body}),
        running.model_copy(update={"output": output}),
        page.model_copy(update={"page": told}),
    ]
    recorded = api.store.write(recording.record_reports, reports, now=utc_now())
    assert len(recorded.transitions) == len(reports)
