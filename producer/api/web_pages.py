"""Pages drawn by Flask in threads: Swagger UI, which reads the published contract, and how they are asked.

A page is answered whole; whatever streams is an operation. a2wsgi's bridge crosses between loop and thread
four times a request and never times out, so ten clients that read slowly or leave early hold all its threads
for good. This one crosses once.
"""

import asyncio
import base64
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, cast

import flask
from a2wsgi.asgi_typing import HTTPScope
from a2wsgi.wsgi import Body, build_environ
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from swagger_ui_bundle import swagger_ui_path
from werkzeug.exceptions import MethodNotAllowed

from producer.api.problems import HttpProblem

_SWAGGER_PAGE = Path(__file__).with_name("swagger.html").read_text()

# The one script that stands in the page itself.
_INLINE_SCRIPT = _SWAGGER_PAGE.partition("<script>")[2].partition("</script>")[0]
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_INLINE_SCRIPT.encode()).digest()).decode()
_PAGE_HEADERS = {
    # Swagger UI writes styles into its elements, and draws with images that are data.
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self' 'sha256-{_SCRIPT_HASH}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    # With `no-referrer` browsers may send `Origin: null`, which may change nothing.
    "Referrer-Policy": "same-origin",
}

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType]


def add_pages(app: flask.Flask) -> None:
    """Add the pages to a Flask application."""
    # `/ui//x` is no page, and not another name of one.
    app.url_map.merge_slashes = False
    app.register_error_handler(MethodNotAllowed, _refuse_method)
    app.add_url_rule("/ui/", "swagger", _swagger_page)
    app.add_url_rule("/ui/index.html", "swagger_index", _swagger_page)
    app.add_url_rule("/ui/<path:name>", "swagger_file", _swagger_file)


class WsgiBridge:
    """Runs a WSGI application in threads. Its pages take no body, so none is read."""

    def __init__(self, wsgi: WsgiApp) -> None:
        self._wsgi = wsgi

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, once the application has made the whole answer."""
        if scope["type"] == "http":
            response = await asyncio.to_thread(call_wsgi, self._wsgi, scope)
            await response(scope, receive, send)


def call_wsgi(
    wsgi: WsgiApp, scope: Scope, body: bytes = b"", *, extra: Mapping[str, object] | None = None
) -> Response:
    """Return the whole answer of a WSGI application to a request. Blocks.

    Args:
        body: All of it; without one the application is told of no `Content-Type` either.
        extra: What the application finds in its `environ`, too.
    """
    environ = cast("dict[str, Any]", build_environ(cast("HTTPScope", scope), cast("Body", io.BytesIO(body))))
    if not body:
        environ.pop("CONTENT_TYPE", None)
    environ["CONTENT_LENGTH"] = str(len(body))
    environ |= extra or {}
    response = Response()

    def start_response(
        status: str, headers: list[tuple[str, str]], _error: _ExceptionInfo | None = None
    ) -> Callable[[bytes], None]:
        response.status_code = int(status.split(" ", 1)[0])
        response.raw_headers = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers]
        return lambda _: None

    chunks = wsgi(environ, start_response)
    try:
        response.body = b"".join(chunks)
    finally:
        if close := getattr(chunks, "close", None):
            close()
    return response


def _swagger_page() -> flask.Response:
    return flask.Response(_SWAGGER_PAGE, mimetype="text/html", headers=_PAGE_HEADERS)


def _swagger_file(name: str) -> flask.Response:
    answer = flask.send_from_directory(swagger_ui_path, name)
    answer.headers.extend(_PAGE_HEADERS)
    return answer


def _refuse_method(error: MethodNotAllowed) -> NoReturn:
    allow = ", ".join(sorted(error.valid_methods or ()))
    detail = f"This path answers to {allow}."
    raise HttpProblem(HTTPStatus.METHOD_NOT_ALLOWED, detail, headers={"Allow": allow})
