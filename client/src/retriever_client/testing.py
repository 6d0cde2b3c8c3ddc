"""A service in memory, for tests of programs that use the client: no network, no broker, no waiting.

    service = FakeService()
    service.answers["https://example.com/gone"] = parked("http_410")
    with FakeRetriever(service) as retriever:
        assert retriever.check("https://example.com/gone").state == "parked"

It answers as the service does, and passes the tests that hold the client against a running one. Each job ends
as it is handed in: succeeded, unless `answers` says otherwise of its URL. Tasks, and jobs that have a
`delay_seconds` or `run_at`, wait until `end` is called.
"""

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from retriever_client._async.client import AsyncRetriever
from retriever_client._fake_answers import (
    Answer,
    Document,
    Refused,
    document_of,
    found,
    invalid,
    limit_of,
    now,
)
from retriever_client._fake_operators import KINDS, FakeOperators
from retriever_client._sync.client import Retriever

STATES = ("scheduled", "accepted", "queued", "running", "delayed", "succeeded", "parked", "cancelled")
FINAL = ("succeeded", "parked", "cancelled")
URL = "http://retriever.test"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ends."""

    state: str = "succeeded"
    result: Mapping[str, Any] | None = None
    reason: str | None = None
    explanation: str | None = None


def succeeded(**result: Any) -> Ended:
    """Return a success with this result; a check without one found the URL good."""
    return Ended(result=result or None)


def broken(reason: str = "http_404") -> Ended:
    """Return the success of a check that found the URL broken."""
    return Ended(result={"verdict": "broken", "reason": reason})


def parked(reason: str = "http_503", explanation: str = "It was given up.") -> Ended:
    """Return the end of a job that was given up."""
    return Ended("parked", None, reason, explanation)


@dataclass(slots=True)
class FakeService:
    """What a service has, in memory.

    Attributes:
        answers: How jobs end, by their URL; a function is asked with the job.
        requests: Method and path of all that were sent.
        bodies: What fetches bring back, by their URL.
        operators: Keys, secrets, limits, hosts and the audit log.
    """

    answers: dict[str, Ended | Callable[[Mapping[str, Any]], Ended]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    jobs: dict[str, Document] = field(default_factory=dict)
    batches: dict[str, Document] = field(default_factory=dict)
    operations: dict[str, Document] = field(default_factory=dict)
    schedules: dict[str, Document] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    operators: FakeOperators = field(default_factory=FakeOperators)
    _rejected: dict[str, list[Document]] = field(default_factory=dict)
    _leases: dict[str, str] = field(default_factory=dict)
    _answered: dict[tuple[str, str], tuple[bytes, Answer]] = field(default_factory=dict)
    _feed: list[tuple[str, str]] = field(default_factory=list)
    _ids: int = 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request."""
        path, body = request.url.path, request.content
        self.requests.append((request.method, path))
        key = request.headers.get("Idempotency-Key", ""), path
        if request.method == "POST" and key[0] and key in self._answered:
            before, answer = self._answered[key]
            if before != body:
                return _response((409, Refused(409, "idempotency-conflict", "Sent before.").document))
            return _response(answer)
        try:
            answer = self._answer(request, body)
        except Refused as refused:
            return _response((refused.status, refused.document))
        if request.method == "POST" and key[0]:
            self._answered[key] = body, answer
        return _response(answer)

    def end(self, job_id: str, ended: Ended | None = None) -> None:
        """Let a job end that waits."""
        job = self._job(job_id)
        how = ended or self._how(job)
        self._end(job, how.state, how.reason, how.explanation, how.result)

    # What is asked.

    def _answer(self, request: httpx2.Request, body: bytes) -> Answer:
        for method, pattern, handler in _ROUTES:
            match = re.fullmatch(pattern, request.url.path)
            if match and method == request.method:
                answer: Answer = getattr(self, handler)(request, body, *match.groups())
                return answer
        if (of_operators := self.operators.answer(request, body)) is not None:
            return of_operators
        raise Refused(404, "about:blank", "There is nothing at this path.")

    def _submit_job(self, _request: httpx2.Request, body: bytes) -> Answer:
        asked = document_of(body)
        kind, args = asked.get("kind"), asked.get("args")
        if kind not in KINDS:
            raise invalid("/kind", f"Unknown kind '{kind}'")
        if not isinstance(args, dict):
            raise invalid("/args", "Field required")
        self._check_args(kind, args, "/args")
        return 202, self._store(kind, args, asked)

    def _list_jobs(self, request: httpx2.Request, _body: bytes) -> Answer:
        return self._page(
            request, self._matching(request, self.jobs.values()), without=("attempts", "duplicate_of")
        )

    def _get_job(self, _request: httpx2.Request, _body: bytes, job_id: str) -> Answer:
        return 200, self._job(job_id)

    def _change_job(self, request: httpx2.Request, body: bytes, job_id: str, action: str) -> Answer:
        answer = self._changed_job(body, job_id, action)
        said = {"cancel": "job_cancelled", "redrive": "job_redriven", "discard": "job_discarded"}[action]
        self.operators.note(request, said, f"job/{job_id}")
        return answer

    def _changed_job(self, body: bytes, job_id: str, action: str) -> Answer:
        job = self._job(job_id)
        if action == "cancel":
            if job["state"] in {"succeeded", "parked"}:
                raise Refused(409, "urn:retriever:job-ended-already", "The job has ended already.")
            if job["state"] != "cancelled":
                self._end(job, "cancelled", "cancelled", "Cancelled.", None)
            return 202, job
        if job["state"] != "parked":
            raise Refused(409, "urn:retriever:job-not-parked", "Only a parked job can be redriven.")
        if action == "discard":
            self._end(job, "cancelled", "discarded", "Discarded.", None, run=job["run"] + 1)
            return 200, job
        if (edited := (document_of(body) if body else {}).get("args")) is not None:
            job["args"] = edited
        return 202, self._redrive(job)

    def _submit_batch(self, request: httpx2.Request, body: bytes) -> Answer:
        params = dict(request.url.params)
        if request.headers["Content-Type"] == "application/json":
            asked = document_of(body)
            items: list[Any] = asked.get("items", [])
        else:
            asked = {name: _query_value(name, value) for name, value in params.items()}
            items = [json.loads(line) for line in body.splitlines() if line.strip()]
        if not items:
            raise invalid("/lines", "There is no job in the body")
        kind = asked.get("kind", "check")
        batch_id, rejected = self._id(), []
        valid: list[tuple[int, Document, str | None]] = []
        for number, item in enumerate(items, start=1):
            args = {**asked.get("defaults", {}), **item}
            ref = args.pop("ref", None)
            try:
                self._check_args(kind, args, f"/lines/{number}")
                valid.append((number, args, ref))
            except Refused as refused:
                (error,) = refused.document["errors"]
                rejected.append({"number": number, **error, "ref": ref, "given": json.dumps(item)})
        if not valid or (rejected and asked.get("strict")):
            first = rejected[0]
            raise Refused(422, "urn:retriever:batch-invalid", first["msg"], (first["loc"], first["msg"]))
        self.batches[batch_id] = self._batch(batch_id, kind, asked)
        self._rejected[batch_id] = rejected
        for number, args, ref in valid:
            self._store(kind, args, {"lane": "bulk", **asked, "ref": ref}, batch_id=batch_id, line=number)
        return 202, self._shown_batch(batch_id)

    def _list_batches(self, request: httpx2.Request, _body: bytes) -> Answer:
        shown = [self._shown_batch(each) for each in self.batches]
        return self._page(request, self._matching(request, shown))

    def _get_batch(self, _request: httpx2.Request, _body: bytes, batch_id: str) -> Answer:
        return 200, self._shown_batch(batch_id)

    def _cancel_batch(self, _request: httpx2.Request, _body: bytes, batch_id: str) -> Answer:
        self._shown_batch(batch_id)
        self.batches[batch_id]["cancelled_at"] = now()
        for job in self._of_batch(batch_id):
            if job["state"] not in FINAL:
                self._end(job, "cancelled", "cancelled", "Cancelled.", None)
        return 202, self._shown_batch(batch_id)

    def _list_rejected(self, request: httpx2.Request, _body: bytes, batch_id: str) -> Answer:
        self._shown_batch(batch_id)
        limit, after = limit_of(request), int(request.url.params.get("cursor", 0))
        found = [each for each in self._rejected[batch_id] if each["number"] > after]
        following = str(found[limit - 1]["number"]) if len(found) > limit else None
        return 200, {"items": found[:limit], "next": following}

    def _results(self, _request: httpx2.Request, _body: bytes, batch_id: str) -> Answer:
        self._shown_batch(batch_id)
        lines = [json.dumps(_summary(job)) + "\n" for job in self._of_batch(batch_id)]
        return 200, ("application/x-ndjson", "".join(lines))

    def _events(self, request: httpx2.Request, _body: bytes) -> Answer:
        params = request.url.params
        if (batch_id := params.get("batch_id")) is not None:
            self._shown_batch(batch_id)
        place = request.headers.get("Last-Event-ID") or params.get("after")
        start = int(place.partition("-")[0]) if place else len(self._feed)
        pieces = [f"retry: 10\nid: {start}\n\n"]
        for number, (name, of) in enumerate(self._feed[start:], start=start + 1):
            document = self._shown_batch(of) if name.startswith("batch.") else _summary(self.jobs[of])
            is_meant = not document.get("state") or name == f"job.{document['state']}"
            if is_meant and self._is_told(params, document):
                pieces.append(f"id: {number}\nevent: {name}\ndata: {json.dumps(document)}\n\n")
        pieces.append(f"id: {len(self._feed)}\n\n")
        return 200, ("text/event-stream", "".join(pieces))

    def _list_parked(self, request: httpx2.Request, _body: bytes) -> Answer:
        groups: dict[tuple[str, str, str], list[Document]] = {}
        for job in self._matching(request, self._parked()):
            groups.setdefault((job["kind"], job["reason"] or "", job["host"]), []).append(job)
        shown = [_group(key, jobs) for key, jobs in groups.items()]
        shown.sort(key=lambda group: -group["count"])
        total = sum(group["count"] for group in shown)
        return 200, {"items": shown[: limit_of(request)], "total_groups": len(shown), "total_jobs": total}

    def _redrive_batch(self, _request: httpx2.Request, _body: bytes, batch_id: str) -> Answer:
        self._shown_batch(batch_id)
        chosen = [job for job in self._parked() if job["batch_id"] == batch_id]
        return 202, self._operation("redrive", {"batch_id": batch_id}, chosen, {})

    def _begin_any(self, _request: httpx2.Request, body: bytes) -> Answer:
        asked = document_of(body)
        which, action = asked.get("filter"), asked.get("action", "")
        if not which:
            raise invalid("/filter", "Say which jobs; for all of them send a created_before that lies ahead")
        is_cancel = action == "cancel"
        open_jobs = [job for job in self.jobs.values() if job["state"] not in FINAL]
        chosen = [job for job in (open_jobs if is_cancel else self._parked()) if _is_chosen(job, which)]
        if asked.get("dry_run"):
            return 200, {"matching": len(chosen)}
        return 202, self._operation(action, which, chosen, asked)

    def _begin_operation(self, _request: httpx2.Request, body: bytes, action: str) -> Answer:
        asked = document_of(body)
        which = asked.get("filter")
        if not which:
            raise invalid("/filter", "Say which jobs; for all of them send older_than_seconds: 0")
        chosen = [job for job in self._parked() if _is_chosen(job, which)]
        if asked.get("dry_run"):
            return 200, {"matching": len(chosen)}
        return 202, self._operation(action, which, chosen, asked)

    def _operation(
        self, action: str, which: Mapping[str, Any], chosen: list[Document], asked: Mapping[str, Any]
    ) -> Document:
        for job in chosen:
            if action == "redrive":
                self._redrive(job)
            elif action == "cancel":
                self._end(job, "cancelled", "cancelled", "Cancelled.", None)
            else:
                self._end(job, "cancelled", "discarded", "Discarded.", None, run=job["run"] + 1)
        done, at = len(chosen), now()
        operation: Document = {
            "id": self._id(),
            "action": action,
            "filter": which,
            "rate_per_second": asked.get("rate_per_second", 50),
            "state": "done",
            "total": done,
            "done": done,
            "skipped": 0,
            "created_at": at,
            "finished_at": at,
            "by": "anonymous",
            "project": None,
        }
        self.operations[operation["id"]] = operation
        return operation

    def _list_operations(self, request: httpx2.Request, _body: bytes) -> Answer:
        return self._page(request, list(self.operations.values())[::-1])

    def _get_operation(self, _request: httpx2.Request, _body: bytes, operation_id: str) -> Answer:
        return 200, found(self.operations, operation_id, "operation")

    def _cancel_operation(self, _request: httpx2.Request, _body: bytes, operation_id: str) -> Answer:
        found(self.operations, operation_id, "operation")
        raise Refused(409, "urn:retriever:operation-finished", "The operation is done.")

    def _submit_schedule(self, _request: httpx2.Request, body: bytes) -> Answer:
        asked = document_of(body)
        if (asked.get("cron") is None) == (asked.get("every_seconds") is None):
            raise invalid("/cron", "Send either cron or every_seconds")
        schedule = {
            **dict.fromkeys(("name", "cron", "timezone", "every_seconds", "starts_at", "job", "batch")),
            "overlap": "skip",
            "catch_up": "one",
            "labels": {},
            **asked,
            "id": self._id(),
            "project": "default",
            "paused": False,
            "last_run": None,
            "runs": 0,
            "skipped": 0,
            "last_error": None,
            "created_at": now(),
            "next_runs": [now()],
        }
        self.schedules[schedule["id"]] = schedule
        return 201, schedule

    def _list_schedules(self, request: httpx2.Request, _body: bytes) -> Answer:
        return self._page(request, self._matching(request, self.schedules.values()))

    def _get_schedule(self, _request: httpx2.Request, _body: bytes, schedule_id: str) -> Answer:
        return 200, found(self.schedules, schedule_id, "schedule")

    def _delete_schedule(self, _request: httpx2.Request, _body: bytes, schedule_id: str) -> Answer:
        found(self.schedules, schedule_id, "schedule")
        del self.schedules[schedule_id]
        return 204, None

    def _change_schedule(
        self, _request: httpx2.Request, _body: bytes, schedule_id: str, action: str
    ) -> Answer:
        schedule = found(self.schedules, schedule_id, "schedule")
        if action == "run":
            job = schedule["job"] or {}
            made = self._store(job.get("kind", "check"), job.get("args", {}), job, schedule_id=schedule_id)
            schedule["runs"] += 1
            schedule["last_run"] = {"run_at": now(), "job_id": made["id"], "batch_id": None}
        else:
            schedule["paused"] = action == "pause"
            schedule["next_runs"] = [] if schedule["paused"] else [now()]
        return 200, schedule

    def _submit_task(self, _request: httpx2.Request, body: bytes) -> Answer:
        asked = document_of(body)
        if (asked.get("command") is None) == (asked.get("payload") is None):
            raise invalid("/payload", "Send either command or payload")
        command = (
            {"shell": asked["command"]} if isinstance(asked.get("command"), str) else asked.get("command")
        )
        args = {
            "queue": asked.get("queue", "default"),
            **({"command": command} if command is not None else {"payload": asked["payload"]}),
        }
        return 202, self._task(self._store("task", args, asked))

    def _list_tasks(self, request: httpx2.Request, _body: bytes) -> Answer:
        queue = request.url.params.get("queue")
        tasks = [job for job in self.jobs.values() if job["kind"] == "task"]
        found = [self._task(job) for job in self._matching(request, tasks)]
        return self._page(request, [each for each in found if queue in {None, each["queue"]}])

    def _get_task(self, _request: httpx2.Request, _body: bytes, task_id: str) -> Answer:
        return 200, self._task(self._job(task_id))

    def _pick_tasks(self, _request: httpx2.Request, body: bytes) -> Answer:
        asked = document_of(body) if body else {}
        waiting = [
            job
            for job in self.jobs.values()
            if job["kind"] == "task"
            and job["state"] == "queued"
            and job["args"]["queue"] == asked.get("queue", "default")
        ]
        leased = []
        for job in waiting[: asked.get("max", 1)]:
            job.update(state="running", attempt=job["attempt"] + 1)
            self._leases[job["id"]] = token = uuid.uuid4().hex
            at, until = now(), now(asked.get("lease_seconds", 60))
            job["attempts"].append(_attempt(job, at, worker=asked.get("agent", "agent")))
            task = self._task(job)
            names = ("id", "queue", "command", "payload", "run", "attempt", "labels", "ref", "batch_id")
            shown = {name: task[name] for name in (*names, "created_at", "deadline_at")}
            leased.append({**shown, "max_attempts": 5, "lease": {"token": token, "expires_at": until}})
        return 200, {"tasks": leased}

    def _end_task(self, _request: httpx2.Request, body: bytes, task_id: str, action: str) -> Answer:
        asked, job = document_of(body), self._job(task_id)
        if self._leases.get(task_id) != asked.get("token") or (
            action == "extend" and job["state"] != "running"
        ):
            raise Refused(409, "urn:retriever:lease-lost", "The lease is not held.")
        if action == "extend":
            until = now(asked.get("lease_seconds", 60))
            return 200, {"expires_at": until, "cancel_requested": False}
        if job["state"] == "running":
            said: Document = {
                name: asked[name] for name in ("output", "stdout", "stderr", "exit_code") if name in asked
            }
            if action == "finish" and asked.get("outcome", "succeeded") == "succeeded":
                self._end(job, "succeeded", None, None, said)
            else:
                reason = asked.get("reason", "agent_failed")
                self._end(job, "parked", reason, asked.get("explanation", "Its agent failed."), said)
        task = self._task(job)
        return 200, {name: value for name, value in task.items() if name not in _ONLY_OF_TASKS}

    def _abort_task(self, request: httpx2.Request, body: bytes, task_id: str) -> Answer:
        self._change_job(request, body, task_id, "cancel")
        return 202, self._task(self._job(task_id))

    def _stats(self, _request: httpx2.Request, _body: bytes) -> Answer:
        states = [job["state"] for job in self.jobs.values()]
        ended = {state: states.count(state) for state in FINAL}
        return 200, {
            "at": now(),
            "jobs": {each: states.count(each) for each in STATES if each not in {"succeeded", "cancelled"}},
            "ended_last_minute": ended,
            "ended_last_hour": ended,
            "unfinished_batches": sum(not self._is_complete(each) for each in self.batches),
            "running_operations": 0,
            "cut": [],
        }

    def _retention(self, _request: httpx2.Request, _body: bytes) -> Answer:
        return 200, {"days": 0, "states": ["succeeded", "cancelled"], "ended_before": None}

    def _ready(self, _request: httpx2.Request, _body: bytes) -> Answer:
        return 200, {"status": "ok"}

    def _alive(self, _request: httpx2.Request, _body: bytes) -> Answer:
        return 200, {"status": "ok"}

    def _contract(self, _request: httpx2.Request, _body: bytes) -> Answer:
        return 200, {"openapi": "3.0.3", "info": {"title": "Retriever", "version": "1"}, "paths": {}}

    def _metrics(self, _request: httpx2.Request, _body: bytes) -> Answer:
        return 200, ("text/plain; version=0.0.4", "")

    def _get_body(self, _request: httpx2.Request, _body: bytes, job_id: str) -> Answer:
        job = self._job(job_id)
        url = job["args"].get("url")
        if job["kind"] != "fetch" or job["state"] != "succeeded" or url not in self.bodies:
            raise Refused(404, "urn:retriever:body-not-found", "The job has no body.")
        return 200, ("application/octet-stream", self.bodies[url])

    def _get_output(self, _request: httpx2.Request, _body: bytes, job_id: str) -> Answer:
        job = self._job(job_id)
        if job["kind"] not in {"command", "task"}:
            raise Refused(404, "urn:retriever:output-not-found", "No output")
        said = job["result"] or {}
        nothing = {"text": "", "tail": "", "bytes": 0, "omitted_bytes": 0}
        return 200, {
            "job_id": job_id,
            "run": job["run"],
            "attempt": job["attempt"],
            "is_running": job["state"] == "running",
            "updated_at": job["finished_at"],
            "stdout": said.get("stdout") or nothing,
            "stderr": said.get("stderr") or nothing,
        }

    def _get_pages(self, _request: httpx2.Request, _body: bytes, job_id: str) -> Answer:
        job = self._paged(job_id)
        unknown = ("batch_id", "distinct", "duplicates", "missing", "baseline_total", "last_total", "drift")
        states = {"succeeded": "done", "parked": "parked", "cancelled": "cancelled"}
        counts = dict.fromkeys(("done", "parked", "cancelled", "open"), 0) | {"planned": 1}
        counts[states.get(job["state"], "open")] = 1
        is_done, items = job["state"] == "succeeded", len((job["result"] or {}).get("data") or [])
        return 200, {
            **dict.fromkeys(unknown),
            "job_id": job_id,
            "state": job["state"],
            "pages": counts,
            "items": items,
            "stopped_by": "last_page" if is_done else None,
            "complete": is_done,
            "explanation": f"{counts['done']} of 1 pages are done, with {items} items.",
        }

    def _get_items(self, _request: httpx2.Request, _body: bytes, job_id: str) -> Answer:
        items = (self._paged(job_id)["result"] or {}).get("data") or []
        return 200, ("application/x-ndjson", "".join(json.dumps(each) + "\n" for each in items))

    def _paged(self, job_id: str) -> Document:
        job = self._job(job_id)
        if "pages" not in job["args"]:
            raise Refused(409, "urn:retriever:job-not-paged", "The job fetches no pages.")
        return job

    # What it has.

    def _store(
        self, kind: str, args: Document, asked: Mapping[str, Any], *, batch_id: str | None = None, **more: Any
    ) -> Document:
        url = args.get("url", "")
        waits = asked.get("delay_seconds") or asked.get("run_at")
        job = {
            **dict.fromkeys(
                ("reason", "explanation", "result", "schedule_id", "line", "given_url", "same_as")
            ),
            **dict.fromkeys(("due_at", "deadline_at", "callback_url", "callback_events", "finished_at")),
            "id": self._id(),
            "kind": kind,
            "args": args,
            "lane": asked.get("lane", "interactive"),
            "state": "scheduled" if waits else "queued" if kind == "task" else "accepted",
            "run": 1,
            "attempt": 0,
            "host": urlsplit(url).hostname or "",
            "batch_id": batch_id,
            "labels": asked.get("labels", {}),
            "project": "default",
            "ref": asked.get("ref"),
            "created_at": now(),
            "attempts": [],
            "duplicate_of": None,
            **more,
        }
        self.jobs[job["id"]] = job
        if batch_id is not None:
            self.batches[batch_id]["total"] += 1
        stored = {**job, "attempts": []}
        if not waits and kind != "task":
            self._run(job)
        return stored

    def _run(self, job: Document) -> None:
        how = self._how(job)
        job["attempt"] += 1
        job["attempts"].append(_attempt(job, now(), worker="fake"))
        self._end(job, how.state, how.reason, how.explanation, how.result)

    def _redrive(self, job: Document) -> Document:
        waiting = "queued" if job["kind"] == "task" else "accepted"
        job.update(run=job["run"] + 1, attempt=0, state=waiting, reason=None, explanation=None)
        job.update(result=None, finished_at=None)
        stored = {**job, "attempts": list(job["attempts"])}
        if job["kind"] != "task":
            self._run(job)
        return stored

    def _how(self, job: Document) -> Ended:
        answer = self.answers.get(job["args"].get("url", ""), Ended())
        how = answer if isinstance(answer, Ended) else answer(job)
        if job["kind"] == "check" and how.state == "succeeded" and how.result is None:
            url = job["args"]["url"]
            return Ended(result={"verdict": "ok", "reason": "ok", "status": 200, "final_url": url})
        return how

    def _end(
        self,
        job: Document,
        state: str,
        reason: str | None,
        explanation: str | None,
        result: Mapping[str, Any] | None,
        *,
        run: int | None = None,
    ) -> None:
        was_complete = self._is_complete(job["batch_id"])
        job.update(state=state, reason=reason, explanation=explanation, finished_at=now(), due_at=None)
        job.update(run=run or job["run"], result=None if result is None else dict(result))
        if job["attempts"] and job["attempts"][-1]["ended_at"] is None:
            outcome = "succeeded" if state == "succeeded" else "failed_permanent"
            job["attempts"][-1].update(ended_at=now(), outcome=outcome, reason=reason)
        self._feed.append((f"job.{state}", job["id"]))
        if job["batch_id"] is not None and not was_complete and self._is_complete(job["batch_id"]):
            self._feed.append(("batch.completed", job["batch_id"]))

    def _is_complete(self, batch_id: str | None) -> bool:
        return batch_id is not None and all(job["state"] in FINAL for job in self._of_batch(batch_id))

    def _of_batch(self, batch_id: str) -> list[Document]:
        return [job for job in self.jobs.values() if job["batch_id"] == batch_id]

    def _batch(self, batch_id: str, kind: str, asked: Mapping[str, Any]) -> Document:
        nothing = ("schedule_id", "cancelled_at", "estimated_end_at", "callback_url", "callback_events")
        return {
            **dict.fromkeys(nothing),
            "id": batch_id,
            "kind": kind,
            "total": 0,
            "repeats": 0,
            "labels": asked.get("labels", {}),
            "project": "default",
            "created_at": now(),
            "rate_per_second": 0.0,
        }

    def _shown_batch(self, batch_id: str) -> Document:
        batch, jobs = found(self.batches, batch_id, "batch"), self._of_batch(batch_id)
        ends = [job["finished_at"] for job in jobs if job["state"] in FINAL]
        rejected = self._rejected.get(batch_id, [])
        return {
            **batch,
            "counts": {state: sum(job["state"] == state for job in jobs) for state in STATES},
            "finished_at": max(ends, default=batch["created_at"]) if len(ends) == len(jobs) else None,
            "rejected": {"count": len(rejected), "listed": len(rejected), "errors": rejected[:20]},
        }

    def _task(self, job: Document) -> Document:
        if job["kind"] != "task":
            raise Refused(404, "urn:retriever:not-a-task", "The job is no task.")
        said = job["result"] or {}
        names = [
            name
            for name in job
            if name not in {"kind", "args", "host", "result", "line", "given_url", "same_as"}
        ]
        return {
            **{name: job[name] for name in names},
            **{name: job["args"].get(name) for name in ("queue", "command", "payload")},
            **{name: said.get(name) for name in ("exit_code", "output", "stdout", "stderr")},
            "leased_until": None,
            "cancel_requested": False,
            "agent": job["attempts"][-1]["worker"] if job["attempts"] else None,
        }

    def _job(self, job_id: str) -> Document:
        return found(self.jobs, job_id, "job")

    def _parked(self) -> list[Document]:
        return [job for job in self.jobs.values() if job["state"] == "parked"]

    def _matching(self, request: httpx2.Request, items: Any) -> list[Document]:
        """Return those that the filters of a query mean, newest first."""
        params = request.url.params
        return [each for each in [*items][::-1] if self._is_told(params, each) and _has_equal(params, each)]

    def _is_told(self, params: httpx2.QueryParams, document: Document) -> bool:
        of_batch = params.get("batch_id")
        states = params.get_list("state")
        labels = [each.partition(":")[::2] for each in params.get_list("label")]
        return (
            of_batch in {None, document.get("batch_id"), document["id"]}
            and params.get("kind") in {None, document.get("kind")}
            and ("state" not in document or not states or document["state"] in states)
            and all(document["labels"].get(name) == value for name, value in labels)
        )

    def _page(
        self, request: httpx2.Request, found: list[Document], *, without: tuple[str, ...] = ()
    ) -> Answer:
        limit, cursor = limit_of(request), request.url.params.get("cursor")
        rest = [each for each in found if cursor is None or each["id"] < cursor]
        page = [{name: value for name, value in each.items() if name not in without} for each in rest[:limit]]
        return 200, {"items": page, "next": page[-1]["id"] if len(rest) > limit else None}

    def _check_args(self, kind: str, args: Document, at: str) -> None:
        if kind in {"check", "fetch", "webhook"}:
            url = args.get("url")
            if not isinstance(url, str):
                raise invalid(f"{at}/url", "Field required")
            if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
                raise invalid(f"{at}/url", "There is no scheme: did you mean https://?")

    def _id(self) -> str:
        self._ids += 1
        return f"0199aa3e-7c1b-7000-8000-{self._ids:012x}"


_ID = r"/([0-9a-f-]+)"
_ROUTES: tuple[tuple[str, str, str], ...] = (
    ("POST", "/jobs", "_submit_job"),
    ("GET", "/jobs", "_list_jobs"),
    ("GET", f"/jobs{_ID}", "_get_job"),
    ("POST", f"/jobs{_ID}/(cancel|redrive|discard)", "_change_job"),
    ("POST", "/batches", "_submit_batch"),
    ("GET", "/batches", "_list_batches"),
    ("GET", f"/batches{_ID}", "_get_batch"),
    ("POST", f"/batches{_ID}/cancel", "_cancel_batch"),
    ("POST", f"/batches{_ID}/redrive", "_redrive_batch"),
    ("GET", f"/batches{_ID}/rejected", "_list_rejected"),
    ("GET", f"/batches{_ID}/results", "_results"),
    ("GET", "/events", "_events"),
    ("GET", "/parked", "_list_parked"),
    ("POST", "/parked/(redrive|discard)", "_begin_operation"),
    ("POST", "/operations", "_begin_any"),
    ("GET", "/operations", "_list_operations"),
    ("GET", f"/operations{_ID}", "_get_operation"),
    ("POST", f"/operations{_ID}/cancel", "_cancel_operation"),
    ("POST", "/schedules", "_submit_schedule"),
    ("GET", "/schedules", "_list_schedules"),
    ("GET", f"/schedules{_ID}", "_get_schedule"),
    ("DELETE", f"/schedules{_ID}", "_delete_schedule"),
    ("POST", f"/schedules{_ID}/(pause|resume|run)", "_change_schedule"),
    ("POST", "/tasks", "_submit_task"),
    ("GET", "/tasks", "_list_tasks"),
    ("POST", "/tasks/pick", "_pick_tasks"),
    ("GET", f"/tasks{_ID}", "_get_task"),
    ("POST", f"/tasks{_ID}/(extend|finish|fail)", "_end_task"),
    ("POST", f"/tasks{_ID}/abort", "_abort_task"),
    ("GET", f"/jobs{_ID}/body", "_get_body"),
    ("GET", f"/jobs{_ID}/output", "_get_output"),
    ("GET", f"/jobs{_ID}/pages", "_get_pages"),
    ("GET", f"/jobs{_ID}/items", "_get_items"),
    ("GET", "/stats", "_stats"),
    ("GET", "/retention", "_retention"),
    ("GET", "/readyz", "_ready"),
    ("GET", "/livez", "_alive"),
    ("GET", "/metrics", "_metrics"),
    ("GET", "/openapi.json", "_contract"),
)
_ONLY_OF_TASKS = frozenset({"agent", "output", "stdout", "stderr", "attempts", "duplicate_of"})


class FakeRetriever(Retriever):
    """A client for threads of a service in memory."""

    def __init__(self, service: FakeService | None = None) -> None:
        """Make a client of a service, or of one of its own, which is `service`."""
        self.service = service or FakeService()
        self._client = httpx2.Client(transport=httpx2.MockTransport(self.service))
        super().__init__(URL, key="", http_client=self._client)

    def close(self) -> None:
        """Close it."""
        self._client.close()


class AsyncFakeRetriever(AsyncRetriever):
    """A client for coroutines of a service in memory."""

    def __init__(self, service: FakeService | None = None) -> None:
        """Make a client of a service, or of one of its own, which is `service`."""
        self.service = service or FakeService()

        async def answer(request: httpx2.Request) -> httpx2.Response:
            await request.aread()
            return self.service(request)

        self._client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
        super().__init__(URL, key="", http_client=self._client)

    async def aclose(self) -> None:
        """Close it."""
        await self._client.aclose()


def _response(answer: Answer) -> httpx2.Response:
    response = _plain_response(answer)
    response.headers["Date"] = format_datetime(datetime.now(UTC), usegmt=True)
    return response


def _plain_response(answer: Answer) -> httpx2.Response:
    status, body = answer
    if isinstance(body, tuple):
        media_type, content = body
        return httpx2.Response(status, content=content, headers={"Content-Type": media_type})
    return httpx2.Response(status) if body is None else httpx2.Response(status, json=body)


def _query_value(name: str, value: str) -> Any:
    as_json = {"defaults", "labels", "retry", "callback_events", "delay_seconds", "expires_after_seconds"}
    return json.loads(value) if name in {*as_json, "strict", "dedupe"} else value


def _summary(job: Document) -> Document:
    return {name: value for name, value in job.items() if name not in {"attempts", "duplicate_of"}}


def _attempt(job: Document, at: str, *, worker: str) -> Document:
    nothing = dict.fromkeys(("ended_at", "outcome", "reason", "wait_seconds"))
    return {**nothing, "run": job["run"], "number": job["attempt"], "started_at": at, "worker": worker}


def _has_equal(params: httpx2.QueryParams, document: Document) -> bool:
    names = ("host", "ref", "reason", "schedule_id")
    is_url = (params.get("url") or "").lower() in str(document.get("args", {}).get("url", "")).lower()
    return is_url and all(params.get(name) in {None, document.get(name)} for name in names)


def _is_chosen(job: Document, which: Mapping[str, Any]) -> bool:
    ids, labels = which.get("ids"), which.get("labels", {})
    url = str(job["args"].get("url", "")).lower()
    equal = ("batch_id", "schedule_id", "kind", "host", "reason", "ref")
    return (
        (ids is None or job["id"] in ids)
        and (which.get("url") or "").lower() in url
        and all(job["labels"].get(name) == value for name, value in labels.items())
        and all(which.get(name) in {None, job[name]} for name in equal)
    )


def _group(key: tuple[str, str, str], jobs: list[Document]) -> Document:
    kind, reason, host = key
    times = [job["finished_at"] for job in jobs]
    return {
        "group": "-".join(key),
        "kind": kind,
        "reason": reason,
        "host": host,
        "count": len(jobs),
        "first_parked_at": min(times),
        "last_parked_at": max(times),
        "sample_job_id": jobs[0]["id"],
        "sample_explanation": jobs[0]["explanation"],
    }
