"""How a page is drawn: its template, and what all templates share. Everything that they show is escaped."""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import flask
from markupsafe import Markup, escape

from producer.api.security import scope_missing
from producer.callers import Caller, Scope
from producer.dashboard.mount import ASSET_VERSIONS, PREFIX, VISIT, Visit
from shared.clock import utc_now
from shared.outcomes import OutcomeName
from shared.states import JobState
from shared.times import parse_time

PAGE_ROWS: Final = 50
"""How many rows a list shows."""

# The digest of a page and the time at which it was drawn are known, or wanted, only when it is drawn.
_ETAG_PLACE: Final = b"@@etag@@"
_DRAWN_PLACE: Final = b"@@drawn@@"

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    # With `no-referrer` browsers may send `Origin: null`, which may change nothing.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
    "Vary": "Cookie",
}

# Name, address, and the key that leads there after `g`.
NAVIGATION: Final = (
    ("Overview", PREFIX, "o"),
    ("Jobs", f"{PREFIX}jobs", "j"),
    ("Parked", f"{PREFIX}parked", "p"),
    ("Operations", f"{PREFIX}operations", "x"),
    ("Batches", f"{PREFIX}batches", "b"),
    ("Schedules", f"{PREFIX}schedules", "s"),
    ("Hosts", f"{PREFIX}hosts", "h"),
    ("Kinds", f"{PREFIX}kinds", "k"),
    ("Keys", f"{PREFIX}keys", "y"),
    ("Audit", f"{PREFIX}audit", "a"),
    ("Submit", f"{PREFIX}submit", "n"),
)

# What has happened, after a form was sent: the answer leads to a page that says it.
DONE: Final[Mapping[str, str]] = {
    "redriven": "The job was sent back: same id, next run, fresh attempts.",
    "cancelled": "The job was cancelled, or its worker has been told to.",
    "discarded": "The job was ended for good.",
    "submitted": "The job was stored; it is never lost from now on.",
    "started": "The operation was started.",
    "operation-cancelled": "The operation was cancelled; what it has done stays done.",
    "paused": "Paused: no new attempt starts.",
    "resumed": "Resumed.",
    "batch-cancelled": "The jobs of the batch that had not ended were cancelled.",
    "batch-submitted": "The batch was stored.",
    "schedule-run": "The schedule made a run now.",
    "revoked": "The key was revoked: it opens nothing any more.",
}

_STATE_SIGNS = {
    JobState.SCHEDULED: "◷",
    JobState.ACCEPTED: "○",
    JobState.QUEUED: "●",
    JobState.RUNNING: "▶",
    JobState.DELAYED: "↻",
    JobState.SUCCEEDED: "✓",
    JobState.PARKED: "■",
    JobState.CANCELLED: "✕",
}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def visit() -> Visit:
    """Return the request that is being answered."""
    found: Visit = flask.request.environ[VISIT]
    return found


def caller() -> Caller:
    """Return who asks."""
    found = visit().caller
    assert found is not None
    return found


def press_key(what: str, *, name: str = "once") -> str | None:
    """Return the Idempotency-Key of a button: pressed twice in one page, it does its work once.

    Args:
        what: What it does, and to which thing.
        name: The field that names the page; None comes of what no page of ours says in it.
    """
    said = visit().fields.get(name, "")[:80]
    return f"dashboard/{what}/{said}" if said.isascii() and said.isprintable() else None


def check_may(*needed: Scope) -> None:
    """Do nothing if whoever asks has some scopes.

    Raises:
        HttpProblem: 403: they lack one.
    """
    if missing := frozenset(needed) - caller().scopes:
        raise scope_missing(caller(), missing)


def page(
    template: str, *, status: HTTPStatus = HTTPStatus.OK, version: str | None = None, **facts: object
) -> flask.Response:
    """Return a page that is drawn of a template.

    Args:
        version: What its facts are known by, if that is cheaper than to draw it: it is not drawn for a
            browser that has it.
    """
    etag = None if version is None else _etag(repr((version, visit().session.id, caller())).encode())
    if etag is not None and _is_known(etag):
        return flask.Response("", HTTPStatus.NOT_MODIFIED, headers={**HEADERS, "ETag": etag})
    # A lone surrogate, which a stranger's JSON may have, is no Unicode text.
    said = flask.render_template(template, **facts).encode("utf-8", "replace")
    response = flask.Response(said, status, mimetype="text/html", headers=dict(HEADERS))
    return _finished(response, etag)


def see_other(path: str, **query: str) -> flask.Response:
    """Return the answer to a form: the page that shows what came of it (RFC 9110 section 15.4.4)."""
    target = f"{path}?{urlencode(query)}" if query else path
    return flask.Response("", HTTPStatus.SEE_OTHER, headers={**HEADERS, "Location": target})


def add_words(app: flask.Flask) -> None:
    """Give the templates of an application the words that all of them share."""
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals |= {
        "asset": lambda name: f"{PREFIX}static/{name}?v={ASSET_VERSIONS[name]}",
        "action_why": _action_why,
        "nonce": lambda: secrets.token_urlsafe(12),
        "state_sign": lambda state: _STATE_SIGNS.get(state, ""),
        "states": list(JobState),
        "etag_place": _ETAG_PLACE.decode(),
        "drawn_place": _DRAWN_PLACE.decode(),
    }
    app.jinja_env.filters |= {
        "at": show_time,
        "seconds": show_seconds,
        "count": show_count,
        "query": _query,
        "list_query": lambda first, more: _query([*first, *more]),
        "outcome_class": _outcome_class,
        "compact": lambda value: json.dumps(value, ensure_ascii=False, separators=(", ", ": ")),
    }
    app.context_processor(_context)


def show_time(at: datetime | str | None, *, exact: bool = False) -> Markup:
    """Return a time as an element: in UTC; a script shows it as its reader wants it.

    Args:
        exact: Whether how long ago it was would say too little.
    """
    if at is None or at == "":
        return Markup("-")
    if isinstance(at, str):
        try:
            at = parse_time(at)
        except ValueError:
            return escape(at)
    utc = at.astimezone(UTC)
    text = utc.strftime("%Y-%m-%d %H:%M:%S")
    mark = Markup(" data-exact") if exact else ""
    return Markup('<time datetime="{}"{}>{} UTC</time>').format(utc.isoformat(), mark, text)


def show_seconds(seconds: object) -> str:
    """Return a duration in its two largest units; what is none, or below 0 for clocks differ, as a dash."""
    if not isinstance(seconds, int | float) or seconds < 0 or seconds != seconds:  # noqa: PLR0124 (NaN)
        return "-"
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    left = int(seconds)
    words: list[str] = []
    for size, unit in _UNITS:
        if left >= size or words:
            words.append(f"{left // size:,} {unit}")
            left %= size
    words.append(f"{left} s")
    return " ".join(word for word in words[:2] if not word.startswith("0 "))


def show_count(number: object) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,}" if isinstance(number, int) else "-"


def _query(changes: Sequence[tuple[str, str]]) -> str:
    return urlencode(changes)


def _outcome_class(outcome: object) -> str:
    match outcome:
        case OutcomeName():
            return f"outcome-{outcome.value}"
        case str() if outcome in set(OutcomeName):
            return f"outcome-{outcome}"
        case _:
            return "outcome-running"


def _action_why(scope: str) -> str:
    """Return why whoever asks may not do what takes a scope; nothing when they may."""
    who = caller()
    return (
        ""
        if Scope(scope) in who.scopes
        else f"This takes the scope {scope}, which {who.actor} does not have."
    )


def _context() -> dict[str, Any]:
    here = visit()
    done = flask.request.args.get("done", "")
    return {
        "visitor": here.caller,
        "token": lambda: Markup('<input type="hidden" name="token" value="{}">').format(here.form_token),
        "navigation": NAVIGATION,
        "path": flask.request.path,
        "done": DONE.get(done, ""),
        "has_key": here.session.key_start is not None,
        "now": utc_now(),
    }


def _etag(content: bytes) -> str:
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def _is_known(etag: str) -> bool:
    """Return whether the browser has this version of the page already."""
    return flask.request.headers.get("If-None-Match") == etag


def _finished(response: flask.Response, etag: str | None) -> flask.Response:
    """Return a page with its digest, or word that the browser has it already."""
    body = response.get_data()
    etag = etag or _etag(body)
    if response.status_code == HTTPStatus.OK and flask.request.method in {"GET", "HEAD"}:
        response.headers["ETag"] = etag
        if _is_known(etag):
            response.status_code = HTTPStatus.NOT_MODIFIED
            response.set_data(b"")
            return response
    drawn = utc_now().strftime("%H:%M:%S UTC").encode()
    response.set_data(body.replace(_ETAG_PLACE, etag.strip('"').encode()).replace(_DRAWN_PLACE, drawn))
    return response
