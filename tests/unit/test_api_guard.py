"""The body guard on its own: what is announced must come, or it is no request."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from producer.api.contract import load_contract
from producer.api.guard import BodyGuard, BodyLimits
from producer.api.problems import HttpProblem
from producer.api.routes import RouteTable


def read_through_guard(path: str, headers: dict[str, str], *bodies: bytes) -> bytes:
    """Return the body that an operation reads through the guard, when the server hands on these pieces."""
    read = b""
    pieces = iter(bodies)
    left = len(bodies)

    async def receive() -> Message:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": next(pieces), "more_body": left > 0}

    async def app(scope: Scope, receive: Receive, _send: Send) -> None:
        nonlocal read
        read = await Request(scope, receive).body()

    async def send(_message: Message) -> None:
        raise AssertionError("the guard refused the headers")

    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": fields}
    limits = BodyLimits(default_bytes=1_000, idle_seconds=5.0, caps={})
    guard = BodyGuard(app, routes=RouteTable.of(load_contract()), limits=limits)
    asyncio.run(guard(scope, receive, send))
    return read


@pytest.mark.parametrize("path", ["/kinds/check/pause", "/lanes/bulk/resume", "/jobs/x/redrive", "/jobs"])
@pytest.mark.parametrize("came", [b"", b"{}"])
def test_a_body_shorter_than_announced_is_no_body_at_all(path: str, came: bytes) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": "5"}

    with pytest.raises(HttpProblem, match=f"5 bytes were announced, and {len(came)} came"):
        read_through_guard(path, headers, came)


def test_a_body_that_comes_in_pieces_is_read_whole() -> None:
    headers = {"Content-Type": "application/json", "Content-Length": "5"}

    assert read_through_guard("/kinds/check/pause", headers, b"{", b"", b"   }") == b"{   }"


def test_an_empty_chunked_body_is_refused_only_where_none_means_something() -> None:
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}

    assert read_through_guard("/jobs", headers, b"") == b""
    with pytest.raises(HttpProblem, match="The body is empty"):
        read_through_guard("/kinds/check/pause", headers, b"")
