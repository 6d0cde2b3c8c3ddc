"""What is answered before connexion: the contract, redirects, OPTIONS, and the ways a path can be wrong.

connexion would build `/openapi.json` anew each time (14 ms of the event loop), answer 405 with half the
`Allow`, send `/jobs/` to an absolute `http://` address even behind TLS and `/jobs/x//` to whatever host the
request names, and fail on `//jobs`. So it gets no path that is neither in the contract nor a page.
"""

from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from producer.api.problems import NO_PAGE, HttpProblem, problem_response
from producer.api.routes import METHODS, RouteTable

LAST_CONTROL_CHARACTER = "\x1f"
# Below it Flask finds the pages of Swagger UI.
PAGES = "/ui/"
ALL_METHODS = ", ".join(sorted({method.upper() for method in METHODS} | {"HEAD", "OPTIONS"}))


class FixedResponses:
    """Answers requests that need no operation; passes all others on to connexion."""

    def __init__(self, app: ASGIApp, *, routes: RouteTable, pages: Mapping[str, Response]) -> None:
        self._app = app
        self._routes = routes
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http" or (response := self._answer(scope)) is None:
            await self._app(scope, receive, send)
            return
        await response(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        path, method = scope["path"], scope["method"]
        if (page := self._pages.get(path)) is not None:
            return page if method in {"GET", "HEAD"} else _method_refused(method, "GET, HEAD, OPTIONS")
        if _is_ambiguous(path, scope["raw_path"]):
            return _nothing_at(path, method)
        if (route := self._routes.find(path)) is not None:
            return None if route.operation(method) else _method_refused(method, route.allow, route.refusal)
        if path.endswith("/") and self._routes.find(path[:-1]) is not None:
            return _redirect(path[:-1], scope["query_string"])
        return None if path.startswith(PAGES) else _nothing_at(path, method)


def _is_ambiguous(path: str, raw_path: bytes) -> bool:
    """Return whether others would read the path in another way than we do."""
    # connexion finds no route for a line feed and lets Flask find one, which then fails; a NUL in the name of
    # a static file would end in an unhandled ValueError.
    if any(character <= LAST_CONTROL_CHARACTER for character in path):
        return True
    # An encoded slash separates no segments (RFC 3986 section 2.2), but looks decoded as if it did.
    return b"%" in raw_path and b"%2f" in raw_path.lower()


def _nothing_at(path: str, method: str) -> Response:
    if path == "*" and method == "OPTIONS":
        # That asks the server as a whole (RFC 9110 section 9.3.7).
        return _method_refused(method, ALL_METHODS)
    return problem_response(HttpProblem(HTTPStatus.NOT_FOUND, NO_PAGE))


def _method_refused(method: str, allow: str, why: str = "") -> Response:
    if method == "OPTIONS":
        return Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": allow})
    detail = f"This path answers to {allow}. {why}".rstrip()
    return problem_response(HttpProblem(HTTPStatus.METHOD_NOT_ALLOWED, detail, headers={"Allow": allow}))


def _redirect(path: str, query: bytes) -> Response:
    # Without a host, so it stays right behind a proxy; 308 keeps method and body (RFC 9110 section 15.4.9).
    target = quote(path) + (f"?{query.decode('latin-1')}" if query else "")
    return RedirectResponse(target, HTTPStatus.PERMANENT_REDIRECT)
