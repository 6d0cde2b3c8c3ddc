"""The list of jobs, and the page of one: what it is, why it is so, and what can be done about it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import flask
import msgspec
from starlette.requests import Request

from producer.api.bulk_actions import entry_document
from producer.api.documents import job_explanation
from producer.api.jobs import look_up_job, read_job_filter
from producer.api.parameters import Parameters
from producer.api.requests import Query
from producer.callbacks import CALLBACK_LABEL
from producer.callers import Scope
from producer.dashboard.drawing import PAGE_ROWS, caller, check_may, page, press_key, see_other, visit
from producer.dashboard.json_view import indent, show_json
from producer.dashboard.mount import PREFIX
from producer.dashboard.operations import Call
from producer.dashboard.search import (
    Filter,
    SearchInvalid,
    as_command,
    as_text,
    looked_for_id,
    read_search,
)
from producer.dashboard.timeline import answers_in, phases, timeline
from producer.records import JobFilter, JobRecord
from producer.store import audit, queries, queues
from producer.store.database import Connection, Database
from producer.store.queries import WINDOW_ROWS
from producer.stored_json import NULL, StoredObject, json_text, pick, text_of
from shared.clock import utc_now
from shared.errors import BodyNotFound, JobNotFound
from shared.identity import made_at
from shared.kinds.command import COMMAND
from shared.kinds.registry import KINDS
from shared.kinds.task import TASK
from shared.redaction import redact_text, redact_url
from shared.states import JobState

_PREVIEW_BYTES = 4_096
_RELATED_ROWS = 20
_UNENDED = frozenset(JobState) - {JobState.SUCCEEDED, JobState.PARKED, JobState.CANCELLED}
_ACTIONS = {"redrive": "redriven", "discard": "discarded", "cancel": "cancelled"}


@dataclass(frozen=True, slots=True)
class Row:
    """A job as lists show it."""

    id: UUID
    kind: str
    lane: str
    state: JobState
    what: str
    host: str
    reason: str | None
    verdict: str | None
    explanation: str | None
    attempt: int
    run: int
    batch_id: UUID | None
    created_at: datetime
    finished_at: datetime | None
    project: str

    @property
    def is_moving(self) -> bool:
        """Whether it may change by itself, soon."""
        return self.state in _UNENDED

    @property
    def seconds(self) -> float | None:
        """From its submission to its end."""
        return (self.finished_at - self.created_at).total_seconds() if self.finished_at else None


class _Stored(msgspec.Struct):
    args: msgspec.Raw = NULL
    result: msgspec.Raw = NULL


_STORED = msgspec.json.Decoder(_Stored)


class JobPages:
    """Shows jobs, and does what a person decides on one of them."""

    def __init__(self, database: Database, parameters: Parameters) -> None:
        self._database = database
        self._parameters = parameters

    def add_to(self, app: flask.Flask) -> None:
        """Add its pages to an application."""
        app.add_url_rule(f"{PREFIX}jobs", "jobs", self._list)
        app.add_url_rule(f"{PREFIX}jobs/<uuid:job_id>", "job", self._show)
        app.add_url_rule(f"{PREFIX}jobs/<uuid:job_id>/edit", "job_edit", self._edit)
        app.add_url_rule(f"{PREFIX}jobs/<uuid:job_id>/edit", "job_edited", self._edited, methods=["POST"])
        app.add_url_rule(f"{PREFIX}jobs/<uuid:job_id>/again", "job_again", self._again, methods=["POST"])
        app.add_url_rule(f"{PREFIX}jobs/<uuid:job_id>/<action>", "job_act", self._act, methods=["POST"])

    def _list(self) -> flask.Response:
        check_may(Scope.JOBS_READ)
        text = flask.request.args.get("q")
        filters = _filters()
        if text is not None:
            if (job_id := looked_for_id(text)) is not None:
                return see_other(f"{PREFIX}jobs/{job_id}")
            try:
                found = read_search(text, now=utc_now())
            except SearchInvalid as error:
                return page(
                    "jobs.html",
                    status=HTTPStatus.BAD_REQUEST,
                    text=text,
                    problem=str(error),
                    rows=(),
                    filters=(),
                )
            pairs = [(each.name, each.value) for each in found]
            return see_other(f"{PREFIX}jobs?{urlencode(pairs)}" if pairs else f"{PREFIX}jobs")
        cursor = flask.request.args.get("cursor") or None
        asked = self._read_filter(filters, cursor)
        after = UUID(cursor) if cursor else None
        rows, following = self._database.read(
            find_rows, asked, project=caller().project, limit=PAGE_ROWS, after=after
        )
        return page(
            "jobs.html",
            text=as_text(filters),
            filters=_described(filters),
            rows=rows,
            is_first=after is None,
            next_query=_pairs(filters, cursor=str(following)) if following else None,
            looked_back_to=_looked_to(following),
            window_rows=WINDOW_ROWS,
            is_short=following is not None and len(rows) < PAGE_ROWS,
            state_links=_state_links(filters),
            document_query=_pairs(filters),
            command=shlex.join(as_command(filters)),
            bulk=_bulk_links(filters),
        )

    def _read_filter(self, filters: Sequence[Filter], cursor: str | None) -> JobFilter:
        """Return which jobs are asked for, by the API's own rules.

        Raises:
            HttpProblem: 400: it has no such filter, or not of such a value.
        """
        scope = dict(visit().scope)
        scope["query_string"] = urlencode(_pairs(filters, cursor=cursor)).encode()
        self._parameters.check("list_jobs", scope)
        return read_job_filter(Query(Request(scope)))

    def _show(self, job_id: UUID) -> flask.Response:
        check_may(Scope.JOBS_READ)
        document, record, related = self._database.read(_read_job, job_id, project=caller().project)
        said = json.loads(document)
        stored = pick(StoredObject(document.decode()), _STORED)
        now = utc_now()
        answers = answers_in(record.result)
        return page(
            "job.html",
            job=said,
            record=record,
            state=record.state,
            args=show_json(text_of(stored.args)),
            result=None if record.result is None else show_json(text_of(stored.result)),
            what=_what(record),
            telling=record.telling,
            timeline=timeline(record.created_at, record.finished_at, record.attempts, now=now),
            hops=[(hop, phases(hop.timings)) for hop in answers.hops],
            certificate=answers.certificate,
            preview=self._preview(record),
            output=self._output(record),
            related=related,
            curl=_curl(said, text_of(stored.args)),
            is_moving=record.state in _UNENDED,
            may_run_again=record.kind in KINDS and record.project == caller().home,
        )

    def _act(self, job_id: UUID, action: str) -> flask.Response:
        if action not in _ACTIONS:
            raise JobNotFound(f"nothing is done by {action}")
        # A second click is the first one again; one in a page of an earlier run changes nothing of this.
        key = press_key(f"{action}/{job_id}", name="run") if action == "redrive" else None
        visit().call(Call(f"{action}_job", {"job_id": str(job_id)}, key=key))
        return see_other(f"{PREFIX}jobs/{job_id}", done=_ACTIONS[action])

    def _edit(self, job_id: UUID) -> flask.Response:
        check_may(Scope.JOBS_OPERATE)
        document, _ = self._database.read(look_up_job, job_id, project=caller().project)
        stored = pick(StoredObject(document.decode()), _STORED)
        return page("edit.html", job=json.loads(document), args=indent(text_of(stored.args)))

    def _edited(self, job_id: UUID) -> flask.Response:
        here = visit()
        # As it was written: numbers are not read on the way.
        body = f'{{"args":{here.fields.get("args", "")}}}'.encode("utf-8", "surrogatepass")
        key = press_key(f"edit/{job_id}")
        here.call(Call("redrive_job", {"job_id": str(job_id)}, body=body, key=key))
        return see_other(f"{PREFIX}jobs/{job_id}", done="redriven")

    def _again(self, job_id: UUID) -> flask.Response:
        check_may(Scope.JOBS_READ)
        record = self._database.read(queries.get_job, job_id, project=caller().project)
        asked = {"kind": record.kind, "lane": record.lane, "labels": dict(record.labels)}
        head = json.dumps(asked)[:-1]
        body = f'{head},"args":{json_text(record.args)}}}'.encode()
        answer = visit().call(Call("submit_job", body=body, key=press_key(f"again/{job_id}")))
        return see_other(f"{PREFIX}jobs/{answer.document['id']}", done="submitted")

    def _preview(self, record: JobRecord) -> Mapping[str, Any] | None:
        """Return the beginning of what a fetch brought back, as text; None when it has no body."""
        if record.kind != "fetch" or record.result is None:
            return None
        headers = {"range": f"bytes=0-{_PREVIEW_BYTES - 1}"}
        try:
            answer = visit().call(Call("get_body", {"job_id": str(record.id)}, headers=headers))
        except BodyNotFound:
            return None
        whole = answer.headers.get("content-range", "").rpartition("/")[2] or str(len(answer.body))
        if answer.status is HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            answer, whole = replace(answer, body=b""), "0"
        return {
            "text": answer.body.decode("utf-8", "replace"),
            "is_cut": whole != str(len(answer.body)),
            "bytes": int(whole) if whole.isdigit() else None,
            "type": answer.headers.get("content-type", ""),
        }

    def _output(self, record: JobRecord) -> Mapping[str, Any] | None:
        """Return what a command or a task has written, if it has."""
        if record.kind not in {COMMAND, TASK}:
            return None
        said = visit().call(Call("get_output", {"job_id": str(record.id)})).document
        return said if said["updated_at"] else None


@dataclass(frozen=True, slots=True)
class _Related:
    """What hangs together with a job."""

    webhooks: Sequence[Row]
    audit: Sequence[Mapping[str, Any]]


def find_rows(
    connection: Connection, asked: JobFilter, *, project: str | None, limit: int, after: UUID | None
) -> tuple[list[Row], UUID | None]:
    """Return a page of the jobs that match, newest first, as lists show them, and the id to go on below."""
    found = queries.search_jobs(connection, asked, project=project, limit=limit, after=after)
    known = queues.circumstances(connection, now=utc_now(), around=found.records)
    return [_row(record, job_explanation(record, known)) for record in found.records], found.following


def _read_job(
    connection: Connection, job_id: UUID, *, project: str | None
) -> tuple[bytes, JobRecord, _Related]:
    document, _ = look_up_job(connection, job_id, project=project)
    record = queries.get_job(connection, job_id, project=project)
    webhooks: list[Row] = []
    if record.callback_url is not None:
        asked = JobFilter(
            kind="webhook", labels=[(CALLBACK_LABEL, f"job/{job_id}")], created_after=record.created_at
        )
        webhooks, _ = find_rows(connection, asked, project=project, limit=_RELATED_ROWS, after=None)
    entries = audit.list_audit(
        connection, project=project, target=audit.job_target(job_id), limit=_RELATED_ROWS, after=None
    )
    return (
        document,
        record,
        _Related(webhooks, [json.loads(entry_document(entry)) for entry in entries.records]),
    )


def _row(record: JobRecord, explanation: str | None) -> Row:
    verdict = record.telling.verdict
    return Row(
        id=record.id,
        kind=record.kind,
        lane=record.lane,
        state=record.state,
        what=_what(record),
        host=record.host,
        reason=record.reason,
        verdict=verdict if isinstance(verdict, str) else None,
        explanation=None if explanation is None else redact_text(explanation),
        attempt=record.attempt,
        run=record.run,
        batch_id=record.batch_id,
        created_at=record.created_at,
        finished_at=record.finished_at,
        project=record.project,
    )


def _what(record: JobRecord) -> str:
    """Return in a few words what a job is about: its URL, its command, its queue."""
    if isinstance(url := record.url, str):
        return redact_url(url)[:300]
    if record.queue is not None:
        return f"queue {record.queue}"
    return record.ref or ""


def _filters() -> list[Filter]:
    """Return the filters in the query of a list; an empty field of a form is none."""
    kept = flask.request.args.items(multi=True)
    return [Filter(name, value) for name, value in kept if value and name not in {"q", "cursor", "done"}]


def _pairs(filters: Sequence[Filter], cursor: str | None = None) -> list[tuple[str, str]]:
    pairs = [(each.name, each.value) for each in filters]
    return [*pairs, ("cursor", cursor)] if cursor else pairs


def _described(filters: Sequence[Filter]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each filter as text, with the query of the list without it."""
    return [(each.word, _pairs([other for other in filters if other is not each])) for each in filters]


def _state_links(filters: Sequence[Filter]) -> list[tuple[JobState | None, list[tuple[str, str]], bool]]:
    """Return, for each state and for all of them, the query of the list and whether it is this one."""
    others = [each for each in filters if each.name != "state"]
    now = next((each.value for each in filters if each.name == "state"), None)
    return [
        (state, _pairs([*([Filter("state", state)] if state else []), *others]), now == state)
        for state in (None, *JobState)
    ]


def _bulk_links(filters: Sequence[Filter]) -> list[tuple[str, str]]:
    """Return what can be done with exactly the jobs that the list shows, and more pages of it."""
    state = next((each.value for each in filters if each.name == "state"), None)
    pairs = [(each.name, each.value) for each in filters if each.name != "state"]
    if state == JobState.PARKED:
        actions = [("redrive", "Redrive all of these"), ("discard", "Discard all of these")]
    elif state is None and pairs:
        actions = [("cancel", "Cancel those that have not ended")]
    else:
        # An operation has no filter by any other state, and would touch more than is shown.
        return []
    return [
        (f"{PREFIX}operate?{urlencode([('action', action), *pairs])}", label) for action, label in actions
    ]


def _looked_to(following: UUID | None) -> datetime | None:
    """Return when the job was made at which a search has stopped, as its id tells."""
    return None if following is None else made_at(following)


def _curl(job: Mapping[str, Any], args_text: str) -> str:
    asked = json.dumps({"kind": job["kind"], "lane": job["lane"]})[:-1]
    document = f'{asked}, "args": {args_text}}}'
    url = f"{flask.request.host_url}jobs"
    key = " -H 'Authorization: Bearer '\"$RETRIEVER_KEY\"" if visit().session.key_start else ""
    return f"curl {shlex.quote(url)}{key} -H 'Content-Type: application/json' -d {shlex.quote(document)}"
