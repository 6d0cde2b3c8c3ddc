"""The pages on the service itself: schedules, hosts, kinds and lanes, keys, the audit log."""

from uuid import UUID

import flask

from producer.callers import Scope
from producer.dashboard.batches import page_query
from producer.dashboard.drawing import PAGE_ROWS, caller, check_may, page, press_key, see_other, visit
from producer.dashboard.mount import PREFIX
from producer.dashboard.operations import Call
from producer.store import queues
from producer.store.database import Database
from shared.clock import utc_now
from shared.errors import FieldError, JobInvalid
from shared.kinds.registry import BROKERED_KINDS, KINDS, Lane

_SCHEDULE_ACTIONS = {"pause": "paused", "resume": "resumed", "run": "schedule-run"}


class ServicePages:
    """Shows how the service is set up at run time, and changes it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_to(self, app: flask.Flask) -> None:
        """Add its pages to an application."""
        app.add_url_rule(f"{PREFIX}schedules", "schedules", self._schedules)
        app.add_url_rule(
            f"{PREFIX}schedules/<uuid:schedule_id>/<action>", "schedule_act", self._schedule, methods=["POST"]
        )
        app.add_url_rule(f"{PREFIX}hosts", "hosts", self._hosts)
        app.add_url_rule(f"{PREFIX}kinds", "kinds", self._kinds)
        app.add_url_rule(f"{PREFIX}kinds/<kind>/<action>", "kind_act", self._kind, methods=["POST"])
        app.add_url_rule(f"{PREFIX}keys", "keys", self._keys)
        app.add_url_rule(f"{PREFIX}keys/<uuid:key_id>/revoke", "key_revoke", self._revoke, methods=["POST"])
        app.add_url_rule(f"{PREFIX}audit", "audit", self._audit)

    def _schedules(self) -> flask.Response:
        found = visit().call(Call("list_schedules", query=page_query())).document
        return page("schedules.html", items=found["items"], next=found["next"])

    def _schedule(self, schedule_id: UUID, action: str) -> flask.Response:
        if action not in _SCHEDULE_ACTIONS:
            raise JobInvalid([FieldError("/action", f"It must be one of: {', '.join(_SCHEDULE_ACTIONS)}")])
        key = press_key(f"run/{schedule_id}") if action == "run" else None
        visit().call(Call(f"{action}_schedule", {"schedule_id": str(schedule_id)}, key=key))
        return see_other(f"{PREFIX}schedules", done=_SCHEDULE_ACTIONS[action])

    def _hosts(self) -> flask.Response:
        after = flask.request.args.get("after")
        query = [("limit", str(PAGE_ROWS)), *([("after", after)] if after else [])]
        found = visit().call(Call("list_hosts", query=query)).document
        return page("hosts.html", items=found["items"], next=found["next"])

    def _kinds(self) -> flask.Response:
        check_may(Scope.JOBS_READ)
        known = self._database.read(queues.circumstances, now=utc_now())
        rows = [
            (kind, lane, known.queue(kind.name, lane), known.pause(kind.name, lane))
            for kind in KINDS.values()
            for lane in Lane
        ]
        # Task queues are named by those who send tasks, of all projects.
        asked = () if caller().project else self._database.read(queues.list_asked, limit=PAGE_ROWS)
        return page("kinds.html", rows=rows, brokered=BROKERED_KINDS, asked=asked)

    def _kind(self, kind: str, action: str) -> flask.Response:
        if action not in {"pause", "resume"}:
            raise JobInvalid([FieldError("/action", "It must be pause or resume")])
        visit().call(Call(f"{action}_kind", {"kind": kind}))
        return see_other(f"{PREFIX}kinds", done=f"{action}d")

    def _keys(self) -> flask.Response:
        found = visit().call(Call("list_keys", query=page_query())).document
        return page("keys.html", items=found["items"], next=found["next"])

    def _revoke(self, key_id: UUID) -> flask.Response:
        visit().call(Call("revoke_key", {"key_id": str(key_id)}))
        return see_other(f"{PREFIX}keys", done="revoked")

    def _audit(self) -> flask.Response:
        target = flask.request.args.get("target") or None
        query = [*page_query(), *([("target", target)] if target else [])]
        found = visit().call(Call("list_audit", query=query)).document
        return page(
            "audit.html",
            items=found["items"],
            next=found["next"],
            target=target,
            is_first="cursor" not in flask.request.args,
        )
