"""The body guard on its own: what is announced must come, or it is no request."""

import asyncio
import time

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from producer.api.contract import load_contract
from producer.api.guard import BodyGuard, BodyLimits
from producer.api.problems import HttpProblem
from producer.api.refusals import Refusals
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
    guard = BodyGuard(app, routes=RouteTable.of(load_contract()), limits=limits, refusals=Refusals())
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


class Drip:
    """A body that comes piece by piece, on a clock of its own."""

    def __init__(self, piece: bytes, *, pieces: int, seconds: float) -> None:
        self.now = 0.0
        self._piece = piece
        self._left = pieces
        self._seconds = seconds

    async def receive(self) -> Message:
        self.now += self._seconds
        self._left -= 1
        return {"type": "http.request", "body": self._piece, "more_body": self._left > 0}


def read_drip(drip: Drip, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many bytes an operation reads through a guard."""
    size = 0

    async def app(scope: Scope, receive: Receive, _send: Send) -> None:
        nonlocal size
        async for piece in Request(scope, receive).stream():
            size += len(piece)

    async def send(_message: Message) -> None:
        raise AssertionError("the guard refused the headers")

    monkeypatch.setattr(time, "monotonic", lambda: drip.now)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/batches",
        "client": ("192.0.2.7", 1),
        "headers": [(b"content-type", b"text/plain"), (b"transfer-encoding", b"chunked")],
    }
    limits = BodyLimits(default_bytes=10_000_000, idle_seconds=15.0, caps={}, body_seconds=30.0)
    guard = BodyGuard(app, routes=RouteTable.of(load_contract()), limits=limits, refusals=Refusals())
    asyncio.run(guard(scope, drip.receive, send))
    return size


def test_a_body_that_comes_slowly_and_steadily_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    # More than an hour.
    drip = Drip(b"x" * 4_096, pieces=1_000, seconds=4.0)

    assert read_drip(drip, monkeypatch) == 4_096_000


@pytest.mark.parametrize("seconds", [1.0, 14.0])
def test_a_body_that_drips_is_refused_however_short_its_pauses(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    drip = Drip(b"x", pieces=1_000, seconds=seconds)

    with pytest.raises(HttpProblem, match="more slowly than 1,024 bytes a second for 30 seconds"):
        read_drip(drip, monkeypatch)
    assert drip.now <= 45


def test_halves_of_large_bodies_are_kept_up_to_a_limit_and_small_ones_are_taken_all_the_same() -> None:
    limits = BodyLimits(default_bytes=1_000_000, idle_seconds=5.0, caps={}, in_hand_bytes=100_000)
    problems: list[int] = []

    async def run() -> None:
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, _send: Send) -> None:
            await Request(scope, receive).body()

        guard = BodyGuard(app, routes=RouteTable.of(load_contract()), limits=limits, refusals=Refusals())

        async def post(client: str, size: int) -> None:
            pieces = iter([b"x" * size, b""])

            async def receive() -> Message:
                piece = next(pieces)
                if not piece:
                    await go_on.wait()
                return {"type": "http.request", "body": piece, "more_body": bool(piece)}

            async def send(_message: Message) -> None:
                raise AssertionError("the guard refused the headers")

            fields = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
            scope = {
                "type": "http",
                "method": "POST",
                "path": "/jobs",
                "headers": fields,
                "client": (client, 1),
            }
            try:
                await guard(scope, receive, send)
            except HttpProblem as problem:
                problems.append(problem.status)

        # Two fit; the third is over what one client may have; another client has what is left.
        halves = [asyncio.create_task(post("a", 36_000)) for _ in range(3)]
        await asyncio.sleep(0)
        halves += [asyncio.create_task(post("b", 20_000)) for _ in range(2)]
        halves += [asyncio.create_task(post("c", 4_000)) for _ in range(100)]
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*halves)
        assert problems == [503, 503]
        # All is given back.
        await asyncio.gather(post("a", 36_000), post("a", 36_000))

    asyncio.run(run())
    assert problems == [503, 503]
