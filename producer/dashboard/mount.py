"""The dashboard in the application of the API: who asks, for which page, and its drawing in a thread.

The edge around it has refused what is too large, too slow or from a page of others. Here a request gets its
session and its caller, and the token of a form is looked at; Flask, in threads of its own, draws the page.
"""

import asyncio
import hashlib
import mimetypes
import re
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from producer.api.problems import NO_PAGE, HttpProblem, problem_response
from producer.api.refusals import Refusal, Refusals, client_of
from producer.api.requests import CALLER
from producer.api.security import Gate
from producer.api.web_pages import WsgiApp, call_wsgi
from producer.callers import Caller
from producer.dashboard.operations import Answer, Call, Operations
from producer.dashboard.sessions import SIGNING_KEY, SIGNING_KEY_BYTES, Session, SessionCookies
from producer.store.database import Store
from producer.store.secret_keys import keep_key
from shared.errors import RetrieverError

PREFIX: Final = "/dashboard/"
FORM_TYPE: Final = "application/x-www-form-urlencoded"
VISIT: Final = "retriever.visit"
"""Where the `environ` of a page has its `Visit`."""

_STATIC = f"{PREFIX}static/"
_LOGIN = f"{PREFIX}login"
_TOKEN_FIELD = "token"  # noqa: S105 (a name)
_MAX_FIELDS = 200
# Drawing holds Python's one lock, so more threads would only wait for each other; some wait for the store.
_THREADS = 6
_CALL_SECONDS = 60.0
_ASSETS = {
    path.name: (path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream")
    for path in sorted((Path(__file__).parent / "static").iterdir())
}
ASSET_VERSIONS: Final = {
    name: hashlib.blake2b(content, digest_size=6).hexdigest() for name, (content, _) in _ASSETS.items()
}
"""A digest of each asset: it stands in its address, so browsers keep it until it changes."""

# What browsers save, or programs read, as the API has it.
_DOCUMENTS = {
    re.compile(rf"{PREFIX}jobs\.json"): "list_jobs",
    re.compile(rf"{PREFIX}jobs/(?P<job_id>[0-9a-f-]{{36}})\.json"): "get_job",
    re.compile(rf"{PREFIX}jobs/(?P<job_id>[0-9a-f-]{{36}})/body"): "get_body",
    re.compile(rf"{PREFIX}batches/(?P<batch_id>[0-9a-f-]{{36}})/results"): "export_results",
}
_DOCUMENT_HEADERS = {"Content-Security-Policy": "sandbox; default-src 'none'", "Vary": "Cookie"}
_PASSED_ON = frozenset({"range", "if-range", "if-none-match"})

T = TypeVar("T")


@dataclass(slots=True)
class Visit:
    """One request for a page, as its view sees it.

    Attributes:
        caller: Who it is; None for somebody who still has to sign in.
        session: The view may put another one here: its cookie goes with the answer.
        fields: What the form said.
        error: What is wrong with the request; no view is called.
    """

    scope: Scope
    loop: asyncio.AbstractEventLoop
    gate: Gate
    operations: Operations
    cookies: SessionCookies
    session: Session
    caller: Caller | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def form_token(self) -> str:
        """What the forms of its page carry."""
        return self.cookies.form_token(self.session)

    def call(self, call: Call) -> Answer:
        """Return what an operation of the API answers its caller. Blocks.

        Raises:
            RetrieverError: as the operation does.
        """
        assert self.caller is not None
        return self.run(self.operations.call(call, caller=self.caller, outer=self.scope))

    def knows_key(self, text: str) -> bool:
        """Return whether the text is that of a key that opens something. Blocks."""
        return self.run(self.gate.knows_key(Request(self.scope), text))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what comes of work on the event loop. Blocks."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_CALL_SECONDS)


class Dashboard:
    """Answers requests for pages."""

    def __init__(
        self,
        *,
        pages: WsgiApp,
        store: Store,
        gate: Gate,
        operations: Operations,
        refusals: Refusals,
    ) -> None:
        self._pages = pages
        self._store = store
        self._gate = gate
        self._operations = operations
        self._refusals = refusals
        self._cookies: SessionCookies | None = None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="dashboard")

    def beside(self, app: ASGIApp) -> ASGIApp:
        """Return an application that has the pages, and leaves all other requests to another one."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            is_page = scope["type"] == "http" and scope["path"].startswith(PREFIX)
            await (self if is_page else app)(scope, receive, send)

        return answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for a page."""
        if scope["path"].startswith(_STATIC):
            response = _asset(scope)
        else:
            try:
                response = await self._answer(scope, receive)
            except RetrieverError as error:
                # Before anybody could be told in a page.
                response = problem_response(error)
        await response(scope, receive, send)

    def close(self) -> None:
        """Wait for the pages that are being drawn, then end the threads. Blocks."""
        self._pool.shutdown()

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        if self._cookies is None:
            key = await self._store.write(keep_key, SIGNING_KEY, key_bytes=SIGNING_KEY_BYTES)
            self._cookies = SessionCookies(key)
        request = Request(scope, receive)
        known = self._cookies.read(request.headers.get("cookie", ""))
        visit = Visit(
            scope=scope,
            loop=asyncio.get_running_loop(),
            gate=self._gate,
            operations=self._operations,
            cookies=self._cookies,
            session=known or Session.new(),
        )
        body = b""
        try:
            visit.caller = await self._gate.admit_session(request, visit.session.key_start)
            if scope["method"] == "POST":
                body = await request.body()
                visit.fields = self._read_form(scope, body, visit, known)
        except RetrieverError as error:
            visit.error = error
        if visit.error is None and visit.caller is None and scope["path"] != _LOGIN:
            return _to_login(scope, had_key=visit.session.key_start is not None)
        scope[CALLER] = visit.caller
        if visit.error is None and visit.caller is not None and (call := _document_of(scope)) is not None:
            try:
                response = await self._operations.respond(call, caller=visit.caller, outer=scope)
            except RetrieverError as error:
                visit.error = error
            else:
                response.headers.update(_DOCUMENT_HEADERS)
                return response
        response = await visit.loop.run_in_executor(
            self._pool, lambda: call_wsgi(self._pages, scope, body, extra={VISIT: visit})
        )
        if visit.session is not known:
            cookie = self._cookies.write(visit.session, is_secure=scope["scheme"] == "https")
            response.headers.append("set-cookie", cookie)
        return response

    def _read_form(self, scope: Scope, body: bytes, visit: Visit, known: Session | None) -> Mapping[str, str]:
        """Return the fields of a form of ours.

        Raises:
            HttpProblem: 403: it comes from no page of this session. 400: it has too many fields.
        """
        try:
            fields = dict(
                parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
            )
        except ValueError:
            raise HttpProblem(HTTPStatus.BAD_REQUEST, "The form has too many fields.") from None
        if known is None or not visit.cookies.is_form_token(known, fields.get(_TOKEN_FIELD, "")):
            self._refusals.count(Refusal.ORIGIN, client=client_of(scope), what="form")
            detail = "This form is of another session. Go back, load the page again, and send it again."
            raise HttpProblem(HTTPStatus.FORBIDDEN, detail)
        return fields


def is_own_path(path: str) -> bool:
    """Return whether a path leads to a page of the dashboard, and not to another host."""
    return path.startswith(PREFIX) and "\\" not in path and path.isprintable()


def _document_of(scope: Scope) -> Call | None:
    """Return the operation whose answer is the document at a path, as the API gives it."""
    if scope["method"] not in {"GET", "HEAD"}:
        return None
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    for pattern, operation in _DOCUMENTS.items():
        if (match := pattern.fullmatch(scope["path"])) is not None:
            headers = {name: value for name, value in _headers(scope) if name in _PASSED_ON}
            return Call(operation, match.groupdict(), query, headers=headers)
    return None


def _headers(scope: Scope) -> Iterator[tuple[str, str]]:
    for name, value in scope["headers"]:
        yield name.decode("latin-1"), value.decode("latin-1")


def _to_login(scope: Scope, *, had_key: bool) -> Response:
    back = scope["raw_path"].decode("latin-1")
    if query := scope["query_string"].decode("latin-1"):
        back = f"{back}?{query}"
    if scope["method"] not in {"GET", "HEAD"}:
        back = PREFIX
    ended = "&ended=1" if had_key else ""
    headers = {"Cache-Control": "no-store"}
    return RedirectResponse(f"{_LOGIN}?next={quote(back, safe='')}{ended}", HTTPStatus.SEE_OTHER, headers)


def _asset(scope: Scope) -> Response:
    name = scope["path"].removeprefix(_STATIC)
    if name not in _ASSETS or scope["method"] not in {"GET", "HEAD"}:
        return problem_response(HttpProblem(HTTPStatus.NOT_FOUND, NO_PAGE))
    content, media_type = _ASSETS[name]
    is_current = f"v={ASSET_VERSIONS[name]}".encode() == scope["query_string"]
    kept = "public, max-age=31536000, immutable" if is_current else "no-cache"
    return Response(content, headers={"Cache-Control": kept}, media_type=media_type)
