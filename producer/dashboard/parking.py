"""The parking lot, and operations on many jobs: groups, a dry run, a rate, a confirmation, and how far it is.

Groups are shown as the ledger has counted them last. What an operation would do is counted anew before
somebody confirms it, and once more when they do: a page that is older than the jobs explains that.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import flask

from producer.callers import Scope
from producer.dashboard.batches import page_query
from producer.dashboard.drawing import (
    PAGE_ROWS,
    caller,
    check_may,
    page,
    press_key,
    see_other,
    show_count,
    visit,
)
from producer.dashboard.jobs import find_rows
from producer.dashboard.mount import PREFIX
from producer.dashboard.operations import Call
from producer.dashboard.search import WORDS, Filter, as_text
from producer.figures import ParkedCount
from producer.parking import DEFAULT_RATE_PER_SECOND, MAX_RATE_PER_SECOND, GroupKey, OperationAction
from producer.records import JobFilter
from producer.store import figures
from producer.store.database import Database
from shared.errors import FieldError, JobInvalid
from shared.states import JobState

CONFIRMED_ABOVE: Final = 1_000
"""Of more jobs somebody types the number."""

_SAMPLES = 10
_PARKED_FIELDS = ("group", "kind", "host", "reason", "batch_id")
_ANY_FIELDS = tuple(name for name in WORDS.values() if name != "state")
# What more there may be when somebody confirms than when they looked.
_TOLERATED_SHARE = 0.1


class ParkingPages:
    """Shows what is parked, and operations on many jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_to(self, app: flask.Flask) -> None:
        """Add its pages to an application."""
        app.add_url_rule(f"{PREFIX}parked", "parked", self._list)
        app.add_url_rule(f"{PREFIX}parked/<path:group_id>", "group", self._show_group)
        app.add_url_rule(f"{PREFIX}operate", "operate", self._ask)
        app.add_url_rule(f"{PREFIX}operate", "operate_now", self._begin, methods=["POST"])
        app.add_url_rule(f"{PREFIX}operations", "operations", self._operations)
        app.add_url_rule(f"{PREFIX}operations/<uuid:operation_id>", "operation", self._operation)
        app.add_url_rule(
            f"{PREFIX}operations/<uuid:operation_id>/cancel",
            "cancel_operation",
            self._cancel,
            methods=["POST"],
        )

    def _list(self) -> flask.Response:
        check_may(Scope.JOBS_READ)
        asked = {name: flask.request.args.get(name) or None for name in ("kind", "host", "reason")}
        groups = self._read_groups(PAGE_ROWS + 1, asked)
        return page(
            "parked.html",
            groups=groups[:PAGE_ROWS],
            has_more=len(groups) > PAGE_ROWS,
            asked=asked,
            query=[(name, value) for name, value in asked.items() if value],
        )

    def _show_group(self, group_id: str) -> flask.Response:
        check_may(Scope.JOBS_READ)
        key = _group_key(group_id)
        groups = self._read_groups(1, {"kind": key.kind, "host": key.host, "reason": key.reason})
        asked = JobFilter(
            state=JobState.PARKED, kind=key.kind, host=key.host or None, reason=key.reason or None
        )
        rows, _ = self._database.read(find_rows, asked, project=caller().project, limit=_SAMPLES, after=None)
        filters = [("state", "parked"), ("kind", key.kind), ("host", key.host), ("reason", key.reason)]
        return page(
            "group.html",
            key=key,
            group_id=group_id,
            group=groups[0] if groups else None,
            rows=rows,
            query=[(name, value) for name, value in filters if value],
        )

    def _ask(self) -> flask.Response:
        check_may(Scope.JOBS_OPERATE)
        action, asked = _asked(flask.request.args.to_dict(flat=False))
        return _confirmation(action, asked, _matching(action, asked))

    def _begin(self) -> flask.Response:
        check_may(Scope.JOBS_OPERATE)
        fields = visit().fields
        action, asked = _asked({"action": [fields.get("action", "")], **json.loads(_filter_of(fields))})
        expected, rate = _whole(fields, "expected"), _whole(fields, "rate_per_second")
        if not 1 <= rate <= MAX_RATE_PER_SECOND:
            raise JobInvalid(
                [FieldError("/rate_per_second", f"It must be from 1 to {MAX_RATE_PER_SECOND:,}")]
            )
        now = _matching(action, asked)
        if expected > CONFIRMED_ABOVE and _typed(fields) != expected:
            why = f"Type {show_count(expected)} to confirm: nothing was done."
            return _confirmation(action, asked, now, problem=why)
        if now > expected * (1 + _TOLERATED_SHARE):
            why = f"There were {show_count(expected)} jobs when you looked, and now more: nothing was done."
            return _confirmation(action, asked, now, problem=why)
        call = _call(action, asked, rate_per_second=rate, dry_run=False, key=press_key("operate"))
        return see_other(f"{PREFIX}operations/{visit().call(call).document['id']}", done="started")

    def _operations(self) -> flask.Response:
        found = visit().call(Call("list_operations", query=page_query())).document
        is_first = "cursor" not in flask.request.args
        return page("operations.html", items=found["items"], next=found["next"], is_first=is_first)

    def _operation(self, operation_id: UUID) -> flask.Response:
        found = visit().call(Call("get_operation", {"operation_id": str(operation_id)})).document
        return page("operation.html", operation=found, live_every=1)

    def _cancel(self, operation_id: UUID) -> flask.Response:
        visit().call(Call("cancel_operation", {"operation_id": str(operation_id)}))
        return see_other(f"{PREFIX}operations/{operation_id}", done="operation-cancelled")

    def _read_groups(self, limit: int, asked: Mapping[str, str | None]) -> list[ParkedCount]:
        return self._database.read(figures.read_groups, project=caller().project, limit=limit, **asked)


Asked = Sequence[tuple[str, str]]


def _asked(said: Mapping[str, Sequence[str]]) -> tuple[OperationAction, Asked]:
    """Return what is to be done with which jobs.

    Raises:
        JobInvalid: it is nothing that can be done, or no filter says which jobs.
    """
    action = (said.get("action") or [""])[0]
    if action not in set(OperationAction):
        raise JobInvalid([FieldError("/action", f"It must be one of: {', '.join(OperationAction)}")])
    known = dict.fromkeys((*_PARKED_FIELDS, *_ANY_FIELDS))
    asked = [(name, value) for name in known for value in said.get(name, ()) if value]
    if not asked and action == OperationAction.CANCEL:
        raise JobInvalid([FieldError("", "Say which jobs")])
    return OperationAction(action), asked


def _call(
    action: OperationAction, asked: Asked, *, rate_per_second: int, dry_run: bool, key: str | None = None
) -> Call:
    """Return the operation of the API that does it."""
    labels = dict(value.partition(":")[::2] for name, value in asked if name == "label")
    wanted: dict[str, Any] = {name: value for name, value in asked if name != "label"}
    is_parked_alone = (
        action is not OperationAction.CANCEL and not labels and wanted.keys() <= {*_PARKED_FIELDS}
    )
    document: dict[str, Any] = {"dry_run": dry_run, "rate_per_second": rate_per_second}
    if is_parked_alone:
        # All that is parked, if nothing else is said.
        document["filter"] = wanted or {"older_than_seconds": 0}
        return Call(f"{action}_parked", body=json.dumps(document).encode(), key=key)
    document["action"] = action
    document["filter"] = {**wanted, **({"labels": labels} if labels else {})}
    return Call("begin_operation", body=json.dumps(document).encode(), key=key)


def _matching(action: OperationAction, asked: Asked) -> int:
    call = _call(action, asked, rate_per_second=DEFAULT_RATE_PER_SECOND, dry_run=True)
    matching: int = visit().call(call).document["matching"]
    return matching


def _confirmation(
    action: OperationAction, asked: Asked, matching: int, *, problem: str = ""
) -> flask.Response:
    by_name: dict[str, list[str]] = {}
    for name, value in asked:
        by_name.setdefault(name, []).append(value)
    group = _group_key(by_name["group"][0]) if "group" in by_name else None
    shown = [Filter(name, value) for name, value in asked if name != "group"]
    if group is not None:
        named = (("kind", group.kind), ("reason", group.reason), ("host", group.host))
        shown += [Filter(name, value) for name, value in named if value]
    return page(
        "operate.html",
        action=action,
        words=as_text(shown) or "state:parked",
        filter_json=json.dumps(by_name),
        matching=matching,
        must_type=matching > CONFIRMED_ABOVE,
        rate=DEFAULT_RATE_PER_SECOND,
        most=MAX_RATE_PER_SECOND,
        problem=problem,
    )


def _group_key(group_id: str) -> GroupKey:
    try:
        return GroupKey.of(group_id)
    except ValueError:
        raise JobInvalid([FieldError("/group", "There is no such group")]) from None


def _filter_of(fields: Mapping[str, str]) -> str:
    """Return the filter of a form, as the page before has written it."""
    text = fields.get("filter", "")
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    is_good = isinstance(said, dict) and all(
        isinstance(values, list) and all(isinstance(value, str) for value in values)
        for values in said.values()
    )
    if not is_good:
        raise JobInvalid([FieldError("/filter", "It is not what a page of ours says")])
    return text


def _whole(fields: Mapping[str, str], name: str) -> int:
    text = fields.get(name, "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise JobInvalid([FieldError(f"/{name}", "It must be a whole number")])
    return int(text)


def _typed(fields: Mapping[str, str]) -> int | None:
    """Return the number that somebody has typed, with or without marks between thousands."""
    text = "".join(fields.get("number", "").split()).replace(",", "").replace(".", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None
