"""Operations that run on the event loop, behind connexion's routing, security and parameter validation.

A handler that is an `async def` runs here; any other is a Flask view and goes on to the WSGI bridge. (Flask
would run an `async def` on a second event loop in another thread, so none ever reaches it.)
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

NativeHandler = Callable[[Request], Awaitable[Response]]
Handlers = Mapping[str, Callable[..., object]]


class NativeOperations:
    """The application behind connexion: dispatches by operation, to the event loop or to Flask."""

    def __init__(self, handlers: Handlers, flask: ASGIApp) -> None:
        self._native: dict[str | None, NativeHandler] = {
            name: handler for name, handler in handlers.items() if inspect.iscoroutinefunction(handler)
        }
        self._flask = flask

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer on the event loop, or hand the request to Flask."""
        handler = self._native.get(_operation_id(scope)) if scope["type"] == "http" else None
        if handler is None:
            await self._flask(scope, receive, send)
            return
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)


def _operation_id(scope: Scope) -> str | None:
    # Left there by connexion's routing; see connexion.middleware.routing.
    routing = scope.get("extensions", {}).get("connexion_routing", {})
    operation_id: str | None = routing.get("operation_id")
    return operation_id
