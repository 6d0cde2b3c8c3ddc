"""The operations of the API, called by the pages in the same process: with the same checks, and no HTTP.

A page that changes something calls the operation that a program would send for it. So scopes, parameters,
bodies, limits, the audit log and the answers to repeated requests are those of the API.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Scope

from producer.api.guard import JSON_TYPE
from producer.api.parameters import Parameters
from producer.api.requests import CALLER
from producer.api.routes import METHODS
from producer.api.security import scope_missing
from producer.callers import Caller
from producer.callers import Scope as CallerScope

Operation = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation.

    Attributes:
        path: The parameters in the path.
        query: Those in the query.
        body: A JSON document; None for no body.
        key: The Idempotency-Key: a button that is pressed twice does its work once.
    """

    operation: str
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation answered."""

    status: HTTPStatus
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """Its body, read as JSON."""
        document: dict[str, Any] = json.loads(self.body)
        return document


class Operations:
    """The operations of the contract."""

    def __init__(
        self, operations: Mapping[str, Operation], contract: Mapping[str, Any], parameters: Parameters
    ) -> None:
        self._operations = operations
        self._parameters = parameters
        self._asked = {
            item[method]["operationId"]: (method.upper(), _scopes(item[method]))
            for item in contract["paths"].values()
            for method in METHODS
            if method in item
        }

    def scopes(self, operation: str) -> frozenset[CallerScope]:
        """Return what an operation takes."""
        return self._asked[operation][1]

    async def call(self, call: Call, *, caller: Caller, outer: Scope) -> Answer:
        """Return what an operation answers a caller, all of it.

        Args:
            outer: The request for a page that the call is made for; its client is that of the call.

        Raises:
            RetrieverError: as the operation does; 403 when the caller may not call it.
        """
        response = await self.respond(call, caller=caller, outer=outer)
        return await _answer(response, outer)

    async def respond(self, call: Call, *, caller: Caller, outer: Scope) -> Response:
        """Return the answer of an operation to a caller, to be sent on as it comes.

        Raises:
            RetrieverError: as the operation does; 403 when the caller may not call it.
        """
        method, needed = self._asked[call.operation]
        if missing := needed - caller.scopes:
            raise scope_missing(caller, missing)
        scope = _scope(call, method, caller, outer)
        self._parameters.check(call.operation, scope)
        messages: list[Message] = [{"type": "http.request", "body": call.body or b"", "more_body": False}]

        async def receive() -> Message:
            return messages.pop() if messages else {"type": "http.disconnect"}

        return await self._operations[call.operation](Request(scope, receive))


def _scopes(operation: Mapping[str, Any]) -> frozenset[CallerScope]:
    scope = operation.get("x-scope")
    return frozenset([CallerScope(scope)] if scope else [])


def _scope(call: Call, method: str, caller: Caller, outer: Scope) -> Scope:
    headers = {
        **({"content-type": JSON_TYPE} if call.body is not None else {}),
        **({"idempotency-key": call.key} if call.key is not None else {}),
        **call.headers,
    }
    return {
        "type": "http",
        "asgi": outer["asgi"],
        "http_version": "1.1",
        "method": method,
        "scheme": outer["scheme"],
        "path": "/",
        "raw_path": b"/",
        "query_string": urlencode(call.query).encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": outer["client"],
        "server": outer["server"],
        "path_params": dict(call.path),
        CALLER: caller,
    }


async def _answer(response: Response, scope: Scope) -> Answer:
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": True}

    # HEAD would leave the body out.
    await response({**scope, "method": "GET"}, receive, send)
    return Answer(HTTPStatus(response.status_code), dict(response.headers), b"".join(sent))
