"""Flask inside ASGI with one thread hand-off a request; whole answers only: what streams is native.

a2wsgi's own middleware crosses between loop and thread four times a request, each time without a time limit,
so ten clients that read slowly or leave early hold all its threads for good.
"""

import asyncio
import contextvars
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, cast

from a2wsgi.asgi_typing import HTTPScope
from a2wsgi.wsgi import Body, build_environ
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

THREADS = 6

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType]


class WsgiBridge:
    """Runs a WSGI application in threads of its own. Its operations take no body, so none is read."""

    def __init__(self, wsgi: WsgiApp) -> None:
        self._wsgi = wsgi
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="flask")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, once the application has made the whole answer."""
        if scope["type"] != "http":
            return
        call = partial(contextvars.copy_context().run, self._answer, scope)
        response = await asyncio.get_running_loop().run_in_executor(self._pool, call)
        await response(scope, receive, send)

    def close(self) -> None:
        """Wait for the requests that run, then end the threads."""
        self._pool.shutdown()

    def _answer(self, scope: Scope) -> Response:
        environ = cast("dict[str, Any]", build_environ(cast("HTTPScope", scope), cast("Body", io.BytesIO())))
        environ.pop("CONTENT_TYPE", None)
        environ["CONTENT_LENGTH"] = "0"
        response = Response()

        def start_response(
            status: str, headers: list[tuple[str, str]], _error: _ExceptionInfo | None = None
        ) -> Callable[[bytes], None]:
            response.status_code = int(status.split(" ", 1)[0])
            response.raw_headers = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers]
            return lambda _: None

        chunks = self._wsgi(environ, start_response)
        try:
            response.body = b"".join(chunks)
        finally:
            if close := getattr(chunks, "close", None):
                close()
        return response
