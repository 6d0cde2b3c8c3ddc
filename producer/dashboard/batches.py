"""Batches, and the form that hands in a check, a fetch or a list of them."""

import json
from typing import Final
from uuid import UUID

import flask

from producer.callers import Scope
from producer.dashboard.drawing import PAGE_ROWS, check_may, page, press_key, see_other, visit
from producer.dashboard.mount import PREFIX
from producer.dashboard.operations import Call
from shared.errors import FieldError, JobInvalid
from shared.states import JobState

FORM_KINDS: Final = ("check", "fetch")
"""The kinds of the form: those whose arguments may be a URL alone."""

_ENDS = (JobState.SUCCEEDED, JobState.PARKED, JobState.CANCELLED)


class BatchPages:
    """Shows batches, and takes what somebody hands in by a form."""

    def add_to(self, app: flask.Flask) -> None:
        """Add its pages to an application."""
        app.add_url_rule(f"{PREFIX}batches", "batches", self._list)
        app.add_url_rule(f"{PREFIX}batches/<uuid:batch_id>", "batch", self._show)
        app.add_url_rule(
            f"{PREFIX}batches/<uuid:batch_id>/<action>", "batch_act", self._act, methods=["POST"]
        )
        app.add_url_rule(f"{PREFIX}submit", "submit", self._form)
        app.add_url_rule(f"{PREFIX}submit", "submit_now", self._submit, methods=["POST"])

    def _list(self) -> flask.Response:
        found = visit().call(Call("list_batches", query=page_query())).document
        items = [(each, _ended(each["counts"])) for each in found["items"]]
        return page(
            "batches.html", items=items, next=found["next"], is_first="cursor" not in flask.request.args
        )

    def _show(self, batch_id: UUID) -> flask.Response:
        found = visit().call(Call("get_batch", {"batch_id": str(batch_id)})).document
        return page("batch.html", batch=found, ended=_ended(found["counts"]))

    def _act(self, batch_id: UUID, action: str) -> flask.Response:
        here, path = visit(), {"batch_id": str(batch_id)}
        match action:
            case "cancel":
                here.call(Call("cancel_batch", path))
                return see_other(f"{PREFIX}batches/{batch_id}", done="batch-cancelled")
            case "redrive":
                key = press_key(f"redrive/{batch_id}")
                operation = here.call(Call("redrive_batch", path, key=key)).document
                return see_other(f"{PREFIX}operations/{operation['id']}", done="started")
        raise JobInvalid([FieldError("/action", "It must be cancel or redrive")])

    def _form(self) -> flask.Response:
        check_may(Scope.JOBS_READ)
        return page("submit.html", kinds=FORM_KINDS)

    def _submit(self) -> flask.Response:
        here = visit()
        kind, urls = here.fields.get("kind", ""), here.fields.get("urls", "").split()
        if kind not in FORM_KINDS:
            raise JobInvalid([FieldError("/kind", f"It must be one of: {', '.join(FORM_KINDS)}")])
        if not urls:
            raise JobInvalid([FieldError("/urls", "Write a URL a line")])
        key = press_key("submit")
        if len(urls) == 1:
            body = json.dumps({"kind": kind, "args": {"url": urls[0]}}).encode()
            job = here.call(Call("submit_job", body=body, key=key)).document
            return see_other(f"{PREFIX}jobs/{job['id']}", done="submitted")
        body = json.dumps({"kind": kind, "items": [{"url": url} for url in urls]}).encode()
        batch = here.call(Call("submit_batch", body=body, key=key)).document
        return see_other(f"{PREFIX}batches/{batch['id']}", done="batch-submitted")


def page_query() -> list[tuple[str, str]]:
    """Return the query of an operation that lists: a page of rows, from where this page begins."""
    cursor = flask.request.args.get("cursor")
    return [("limit", str(PAGE_ROWS)), *([("cursor", cursor)] if cursor else [])]


def _ended(counts: dict[str, int]) -> int:
    return sum(counts[state] for state in _ENDS)
