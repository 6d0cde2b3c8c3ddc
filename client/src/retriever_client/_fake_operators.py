"""What the service in memory has for those who run it: keys, secrets, limits, hosts, pauses, an audit log."""

import re
import uuid
from dataclasses import dataclass, field

import httpx2

from retriever_client._fake_answers import (
    Answer,
    Document,
    Refused,
    document_of,
    found,
    invalid,
    now,
    page_of,
)

KINDS = ("check", "command", "fetch", "task", "webhook")
LANES = ("bulk", "interactive")
_LIMITS = {
    "stored_jobs": "Jobs in the store, of every kind and in every state.",
    "stored_tasks": "Those among them that are tasks.",
    "stored_bytes": "Arguments, results and bodies of its jobs, as the ledger measured them last.",
    "unfinished_batches": "Batches that have a job which has not ended.",
    "schedules": "Schedules, paused or not.",
    "batch_jobs": "Jobs of one batch.",
    "rejected_lines": "Lines of one batch that became no job and are listed; all are counted.",
    "labels": "Labels of one job, batch or schedule.",
    "audit_days": "For how long the audit log keeps what was done to it.",
    "rejected_days": "For how long lines that became no job are listed.",
}
_MOST_AT_ONCE = 2_000


@dataclass(slots=True)
class FakeOperators:
    """The part of a service in memory that operators use.

    Attributes:
        hosts: What is known of hosts near their limits; a limit that is set adds one.
        audit: What was done, oldest first.
    """

    keys: dict[str, Document] = field(default_factory=dict)
    secrets: dict[str, Document] = field(default_factory=dict)
    limits: dict[str, dict[str, int]] = field(default_factory=dict)
    hosts: dict[str, Document] = field(default_factory=dict)
    audit: list[Document] = field(default_factory=list)
    _pauses: dict[tuple[str, str], Document] = field(default_factory=dict)

    def answer(self, request: httpx2.Request, body: bytes) -> Answer | None:
        """Return the answer to a request; None when it is for others."""
        for method, pattern, handler in ROUTES:
            match = re.fullmatch(pattern, request.url.path)
            if match and method == request.method:
                asked = document_of(body) if method in {"POST", "PUT"} else {}
                answer: Answer = getattr(self, handler)(request, asked, *match.groups())
                return answer
        return None

    def note(self, request: httpx2.Request, action: str, target: str, **details: object) -> None:
        """Write into the audit log."""
        by = request.headers.get("Retriever-Actor") or "anonymous"
        entry = {"id": str(uuid.uuid4()), "at": now(), "by": by, "action": action, "target": target}
        self.audit.append({**entry, "details": details, "project": "default"})

    def _list_audit(self, request: httpx2.Request, _asked: Document) -> Answer:
        target = request.url.params.get("target")
        return page_of(request, [each for each in self.audit[::-1] if target in {None, each["target"]}])

    # Keys.

    def _create_key(self, request: httpx2.Request, asked: Document) -> Answer:
        if not asked.get("scopes"):
            raise invalid("/scopes", "Field required")
        if any(each["name"] == asked["name"] for each in self.keys.values()):
            raise Refused(409, "urn:retriever:key-name-taken", "Another key has, or had, this name.")
        text = _text()
        seconds = asked.get("expires_in_seconds")
        key: Document = {
            "id": str(uuid.uuid4()),
            "name": asked["name"],
            "project": asked.get("project"),
            "scopes": sorted(asked["scopes"]),
            "state": "live",
            "starts": [text[:12]],
            "created_at": now(),
            "created_by": "anonymous",
            "expires_at": None if seconds is None else now(seconds),
            "revoked_at": None,
            "last_used_at": None,
            "rate_per_second": asked.get("rate_per_second"),
        }
        self.keys[key["id"]] = key
        self.note(request, "key_created", f"key/{key['id']}")
        return 201, {**key, "key": text}

    def _list_keys(self, request: httpx2.Request, _asked: Document) -> Answer:
        return page_of(request, [*self.keys.values()][::-1])

    def _get_key(self, _request: httpx2.Request, _asked: Document, key_id: str) -> Answer:
        return 200, found(self.keys, key_id, "key")

    def _rotate_key(self, request: httpx2.Request, asked: Document, key_id: str) -> Answer:
        key, text = found(self.keys, key_id, "key"), _text()
        if key["state"] != "live":
            raise Refused(409, "urn:retriever:key-ended", "The key was revoked.")
        overlaps = asked.get("overlap_seconds", 86_400) > 0
        key["starts"] = [text[:12], *key["starts"][:1]] if overlaps else [text[:12]]
        self.note(request, "key_rotated", f"key/{key_id}")
        return 200, {**key, "key": text}

    def _revoke_key(self, request: httpx2.Request, _asked: Document, key_id: str) -> Answer:
        key = found(self.keys, key_id, "key")
        if key["revoked_at"] is None:
            key.update(state="revoked", revoked_at=now(), starts=[])
            self.note(request, "key_revoked", f"key/{key_id}")
        return 200, key

    # Secrets.

    def _create_secret(self, request: httpx2.Request, asked: Document) -> Answer:
        project = asked.get("project") or "default"
        if any((each["name"], each["project"]) == (asked["name"], project) for each in self.secrets.values()):
            raise Refused(409, "urn:retriever:secret-name-taken", "The project has a secret of this name.")
        secret: Document = {
            "id": str(uuid.uuid4()),
            "name": asked["name"],
            "project": project,
            "use": asked.get("use", "request"),
            "origins": asked["origins"],
            "key_id": "fake",
            "previous_until": None,
            "created_at": now(),
            "created_by": "anonymous",
            "last_used_at": None,
        }
        answer = self._set_secret(secret, asked)
        self.secrets[secret["id"]] = secret
        self.note(request, "secret_created", f"secret/{secret['id']}")
        return 201, answer

    def _list_secrets(self, request: httpx2.Request, _asked: Document) -> Answer:
        return page_of(request, [*self.secrets.values()][::-1])

    def _get_secret(self, _request: httpx2.Request, _asked: Document, secret_id: str) -> Answer:
        return 200, found(self.secrets, secret_id, "secret")

    def _replace_secret(self, request: httpx2.Request, asked: Document, secret_id: str) -> Answer:
        secret = found(self.secrets, secret_id, "secret")
        if secret["use"] == "webhook":
            secret["previous_until"] = now(asked.get("overlap_seconds", 86_400))
        answer = self._set_secret(secret, asked)
        self.note(request, "secret_replaced", f"secret/{secret_id}")
        return 200, answer

    def _delete_secret(self, request: httpx2.Request, _asked: Document, secret_id: str) -> Answer:
        found(self.secrets, secret_id, "secret")
        del self.secrets[secret_id]
        self.note(request, "secret_deleted", f"secret/{secret_id}")
        return 204, None

    def _set_secret(self, secret: Document, asked: Document) -> Document:
        value = asked.get("value")
        if value is None and secret["use"] != "webhook":
            raise invalid("/value", "A request secret needs a value")
        made = None if value is not None else f"whsec_{uuid.uuid4().hex}"
        secret.update(digest=None, updated_at=now(), origins=asked.get("origins") or secret["origins"])
        return {**secret, "value": made}

    # Limits.

    def _own_limits(self, request: httpx2.Request, asked: Document) -> Answer:
        return self._get_limits(request, asked, "default")

    def _get_limits(self, _request: httpx2.Request, _asked: Document, project: str) -> Answer:
        own, every = self.limits.get(project, {}), self.limits.get("*", {})
        items = [
            {
                "name": name,
                "description": description,
                "value": own.get(name, every.get(name)),
                "source": "project" if name in own and project != "*" else "every" if name in every else None,
                "used": None,
            }
            for name, description in _LIMITS.items()
        ]
        return 200, {"project": project, "items": items, "measured_at": None}

    def _set_limits(self, request: httpx2.Request, asked: Document, project: str) -> Answer:
        if unknown := next((name for name in asked if name not in _LIMITS), None):
            raise invalid(f"/{unknown}", "Unknown field")
        self.limits[project] = {name: value for name, value in asked.items() if value is not None}
        self.note(request, "limits_set", f"project/{project}")
        return self._get_limits(request, asked, project)

    # Hosts.

    def _list_hosts(self, request: httpx2.Request, _asked: Document) -> Answer:
        return page_of(request, [self.hosts[name] for name in sorted(self.hosts)], place="after", key="host")

    def _get_host(self, _request: httpx2.Request, _asked: Document, host: str) -> Answer:
        if host.lower() not in self.hosts:
            raise Refused(404, "about:blank", "This host is nowhere near its limit, and none was set for it.")
        return 200, self.hosts[host.lower()]

    def _set_host_limit(self, request: httpx2.Request, asked: Document, host: str) -> Answer:
        concurrency = asked.get("concurrency")
        if not isinstance(concurrency, int) or not 1 <= concurrency <= _MOST_AT_ONCE:
            raise invalid("/concurrency", f"It is from 1 to {_MOST_AT_ONCE}")
        limit = {"concurrency": concurrency, "rate_per_second": float(asked.get("rate_per_second", 0.0))}
        return 200, self._limit_host(request, host.lower(), limit)

    def _clear_host_limit(self, request: httpx2.Request, _asked: Document, host: str) -> Answer:
        return 200, self._limit_host(request, host.lower(), None)

    def _limit_host(self, request: httpx2.Request, name: str, limit: Document | None) -> Document:
        self.note(request, "host_limit_cleared" if limit is None else "host_limit_set", f"host/{name}")
        host = self.hosts.setdefault(
            name,
            {
                "host": name,
                "waiting": 0,
                "in_flight": 0,
                "pace": 1.0,
                "used_per_second": 0.0,
                "answers": 0.0,
                "complaints": 0.0,
                "paused_until": None,
                "breaker": "closed",
                "breaker_until": None,
            },
        )
        host.update(limit=limit, allowed=limit, is_set=limit is not None)
        return host

    # Kinds and lanes.

    def _list_kinds(self, _request: httpx2.Request, _asked: Document) -> Answer:
        return 200, {"items": [{**_kind(name), "queues": self._queues(name)} for name in KINDS]}

    def _change_kind(self, request: httpx2.Request, asked: Document, kind: str, action: str) -> Answer:
        if kind not in KINDS:
            raise invalid("/path/kind", f"It must be one of: {', '.join(KINDS)}")
        self._change(request, action, kind, asked.get("lane", "*"), asked.get("note"))
        queues = self._queues(kind)
        return 200, {"items": [each for each in queues if asked.get("lane") in {None, each["lane"]}]}

    def _change_lane(self, request: httpx2.Request, asked: Document, lane: str, action: str) -> Answer:
        if lane not in LANES:
            raise invalid("/path/lane", f"It must be one of: {', '.join(LANES)}")
        self._change(request, action, "*", lane, asked.get("note"))
        queues = [each for kind in KINDS for each in self._queues(kind)]
        return 200, {"items": [each for each in queues if each["lane"] == lane]}

    def _change(self, request: httpx2.Request, action: str, kind: str, lane: str, note: str | None) -> None:
        by = request.headers.get("Retriever-Actor") or "anonymous"
        if action == "pause":
            pause = {"kind": kind, "lane": lane, "since": now(), "by": by, "note": note}
            self._pauses.setdefault((kind, lane), pause)
        else:
            covered = [each for each in self._pauses if each[0] == kind and lane in {"*", each[1]}]
            for each in covered:
                del self._pauses[each]
        self.note(request, "paused" if action == "pause" else "resumed", f"queue/{kind}.{lane}", note=note)

    def _queues(self, kind: str) -> list[Document]:
        return [
            {
                "name": None if kind == "task" else f"jobs.{kind}.{lane}",
                "kind": kind,
                "lane": lane,
                "ready": None if kind == "task" else 0,
                "consumers": None if kind == "task" else 1,
                "observed_at": None if kind == "task" else now(),
                "paused": next(filter(None, map(self._pauses.get, _covering(kind, lane))), None),
            }
            for lane in LANES
        ]


_THING = r"/([^/]+)"
ROUTES: tuple[tuple[str, str, str], ...] = (
    ("GET", "/audit", "_list_audit"),
    ("POST", "/keys", "_create_key"),
    ("GET", "/keys", "_list_keys"),
    ("GET", f"/keys{_THING}", "_get_key"),
    ("POST", f"/keys{_THING}/rotate", "_rotate_key"),
    ("POST", f"/keys{_THING}/revoke", "_revoke_key"),
    ("POST", "/secrets", "_create_secret"),
    ("GET", "/secrets", "_list_secrets"),
    ("GET", f"/secrets{_THING}", "_get_secret"),
    ("PUT", f"/secrets{_THING}", "_replace_secret"),
    ("DELETE", f"/secrets{_THING}", "_delete_secret"),
    ("GET", "/limits", "_own_limits"),
    ("GET", f"/projects{_THING}/limits", "_get_limits"),
    ("PUT", f"/projects{_THING}/limits", "_set_limits"),
    ("GET", "/hosts", "_list_hosts"),
    ("GET", f"/hosts{_THING}", "_get_host"),
    ("PUT", f"/hosts{_THING}/limit", "_set_host_limit"),
    ("DELETE", f"/hosts{_THING}/limit", "_clear_host_limit"),
    ("GET", "/kinds", "_list_kinds"),
    ("POST", f"/kinds{_THING}/(pause|resume)", "_change_kind"),
    ("POST", f"/lanes{_THING}/(pause|resume)", "_change_lane"),
)


def _covering(kind: str, lane: str) -> tuple[tuple[str, str], ...]:
    return (kind, lane), (kind, "*"), ("*", lane)


def _kind(name: str) -> Document:
    retry = {
        "max_attempts": 5,
        "first_delay_seconds": 5,
        "factor": 2,
        "max_delay_seconds": 3600,
        "jitter": True,
    }
    schema = {"type": "object"}
    return {"name": name, "description": name, "args": schema, "result": schema, "retry": retry}


def _text() -> str:
    return f"rtv_{uuid.uuid4().hex}{uuid.uuid4().hex}"
