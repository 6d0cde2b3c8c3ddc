"""The body guard: refuses a body that is too large, too slow or of an unsupported type, before it is read.

Neither connexion nor Flask has a cap that acts in time: stock connexion reads 300 MB of JSON into 1.8 GB.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.api.problems import HttpProblem, problem_response
from producer.api.refusals import Refusal, Refusals, client_of
from producer.api.routes import Operation, RouteTable
from shared.patience import MIN_BYTES_PER_SECOND, Patience

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain"
CSV_TYPE = "text/csv"
TSV_TYPE = "text/tab-separated-values"
NDJSON_TYPE = "application/x-ndjson"
# Another name for NDJSON; neither is registered with IANA.
JSONL_TYPE = "application/jsonl"
STREAM_TYPES = (TEXT_TYPE, CSV_TYPE, TSV_TYPE, NDJSON_TYPE, JSONL_TYPE)
UTF8_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})
# Lines may be UTF-16 too, by their byte order mark.
STREAM_CHARSETS = UTF8_CHARSETS | {"utf-16"}
MAX_ECHO_LENGTH = 100
# The first bytes of a body need no room of those in hand: ordinary requests are taken when there is none.
_FREE_BYTES = 4_096
# What Python needs beside the bytes of a piece.
_BYTES_OF_A_PIECE = 64
_OF_BODIES = frozenset({b"content-type", b"content-length", b"content-encoding", b"transfer-encoding"})

# The caps that differ from the default, by operation and media type.
Caps = Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How large a body may be, how long it may pause, and how long be too slow.

    Attributes:
        default_bytes: The largest, where `caps` has no other.
        idle_seconds: How long nothing may come.
        body_seconds: How long it may come more slowly than it must.
        in_hand_bytes: Of all bodies together that are kept in memory until they are whole.
    """

    default_bytes: int
    idle_seconds: float
    caps: Caps
    body_seconds: float = 30.0
    in_hand_bytes: int = 67_108_864

    def cap_bytes(self, operation: Operation, media_type: str) -> int:
        """Return the largest body of this type that an operation takes."""
        return self.caps.get((operation.id, media_type), self.default_bytes)


class BodyGuard:
    """Checks the headers of a body before it is read, and its length and pace while it is.

    An operation without a body in the contract gets none: the server discards what was sent.
    """

    def __init__(self, app: ASGIApp, *, routes: RouteTable, limits: BodyLimits, refusals: Refusals) -> None:
        self._app = app
        self._routes = routes
        self._limits = limits
        self._refusals = refusals
        self._in_hand = _BytesInHand(limits.in_hand_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on with its body under watch."""
        operation = self._operation(scope)
        if operation is None or not operation.media_types:
            await self._app(scope, receive, send)
            return
        try:
            headers = _BodyHeaders.of(scope["headers"])
            if not operation.needs_body and headers.announce_nothing:
                await self._app(scope, receive, send)
                return
            media_type = headers.media_type(operation.media_types)
            cap_bytes = self._limits.cap_bytes(operation, media_type)
            headers.check_length(cap_bytes)
        except HttpProblem as problem:
            if problem.status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                self._refusals.count(Refusal.BODY_TOO_LARGE, client=client_of(scope))
            # Without `Connection: close`, uvicorn discards the rest and the client reads a clean answer.
            await problem_response(problem)(scope, receive, send)
            return
        body = _GuardedBody(
            receive,
            limits=self._limits,
            cap_bytes=cap_bytes,
            announced_bytes=headers.length_bytes,
            may_be_empty=operation.needs_body,
            refusals=self._refusals,
            client=client_of(scope),
            # Streams are read line by line.
            in_hand=self._in_hand if media_type == JSON_TYPE else None,
        )
        try:
            await self._app(_with_content_type(scope, media_type), body.receive, send)
        finally:
            body.let_go()

    def _operation(self, scope: Scope) -> Operation | None:
        if scope["type"] != "http" or (route := self._routes.find(scope["path"])) is None:
            return None
        return route.operation(scope["method"])


class _BytesInHand:
    """The bytes of bodies that are kept in memory until they are whole: thousands of halves are much."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._total_bytes = 0
        self._of_client: Counter[str] = Counter()

    def take(self, client: str, size: int) -> bool:
        """Count some more, and return whether there is room; one client leaves some to the others."""
        self._total_bytes += size
        self._of_client[client] += size
        fits = self._of_client[client] <= self._limit_bytes - self._limit_bytes // 4
        return fits and self._total_bytes <= self._limit_bytes

    def give_back(self, client: str, size: int) -> None:
        self._total_bytes -= size
        self._of_client[client] -= size
        if not self._of_client[client]:
            del self._of_client[client]


class _GuardedBody:
    """An ASGI `receive` that counts bytes and watches the clock until the body has ended.

    Only the time that the client takes is counted: not that in which the operation works on what has come.
    """

    def __init__(
        self,
        receive: Receive,
        *,
        limits: BodyLimits,
        cap_bytes: int,
        announced_bytes: int | None,
        may_be_empty: bool,
        refusals: Refusals,
        client: str,
        in_hand: _BytesInHand | None,
    ) -> None:
        self._receive = receive
        self._limits = limits
        self._cap_bytes = cap_bytes
        self._announced_bytes = announced_bytes
        self._may_be_empty = may_be_empty
        self._refusals = refusals
        self._client = client
        self._in_hand = in_hand
        self._in_hand_bytes = 0
        self._seen_bytes = 0
        self._waited_seconds = 0.0
        self._patience = Patience(limits.body_seconds)
        self._ended = False

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            HttpProblem: 413 when the body is over its cap, 408 when nothing came for too long, or too
                little for longer, 400 when less came than was announced, 503 when too many are in hand.
        """
        if self._ended:
            return await self._receive()
        started = time.monotonic()
        seconds = min(self._limits.idle_seconds, self._patience.left_seconds)
        try:
            async with asyncio.timeout(seconds):
                message = await self._receive()
        except TimeoutError:
            raise self._too_slow(seconds) from None
        size = len(message.get("body", b""))
        self._seen_bytes += size
        self._ended = not message.get("more_body", False)
        if self._seen_bytes > self._cap_bytes:
            self._refusals.count(Refusal.BODY_TOO_LARGE, client=self._client)
            raise _too_large(self._cap_bytes)
        if not self._ended:
            self._spend(time.monotonic() - started, size)
        elif message["type"] == "http.request":
            self._check_end()
        return message

    def let_go(self) -> None:
        """Count what was kept of the body no more."""
        if self._in_hand is not None and self._in_hand_bytes:
            self._in_hand.give_back(self._client, self._in_hand_bytes)

    def _spend(self, seconds: float, size: int) -> None:
        """Take the time and the memory of a piece that is not the last; most bodies have none."""
        self._waited_seconds += seconds
        if not self._patience.spend(seconds, moved_bytes=size):
            raise self._too_slow(0.0)
        if self._in_hand is None or self._seen_bytes <= _FREE_BYTES:
            return
        kept = size + _BYTES_OF_A_PIECE
        self._in_hand_bytes += kept
        if not self._in_hand.take(self._client, kept):
            self._refusals.count(Refusal.BODIES_FULL, client=self._client)
            detail = "Too many large bodies are arriving at once; try again."
            raise HttpProblem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"})

    def _too_slow(self, seconds: float) -> HttpProblem:
        self._refusals.count(Refusal.BODY_TOO_SLOW, client=self._client)
        if seconds >= self._limits.idle_seconds:
            detail = f"No byte of the body came for {self._limits.idle_seconds:g} seconds."
        else:
            waited_seconds = self._waited_seconds + seconds
            detail = (
                f"{self._seen_bytes:,} bytes of the body came in {waited_seconds:.0f} seconds. "
                f"It may come more slowly than {MIN_BYTES_PER_SECOND:,} bytes a second for "
                f"{self._limits.body_seconds:g} seconds."
            )
        return HttpProblem(HTTPStatus.REQUEST_TIMEOUT, detail)

    def _check_end(self) -> None:
        """Check that what was announced has come: to an operation without its body means something else."""
        if self._announced_bytes not in {None, self._seen_bytes}:
            detail = f"{self._announced_bytes:,} bytes were announced, and {self._seen_bytes:,} came."
            raise HttpProblem(HTTPStatus.BAD_REQUEST, detail)
        if not self._seen_bytes and not self._may_be_empty:
            detail = "The body is empty. Send a document, or no body, and no Transfer-Encoding."
            raise HttpProblem(HTTPStatus.BAD_REQUEST, detail)


@dataclass(frozen=True, slots=True)
class _BodyHeaders:
    """The headers that say what a body is."""

    content_types: tuple[str, ...]
    content_lengths: tuple[str, ...]
    content_codings: tuple[str, ...]
    is_chunked: bool

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> "_BodyHeaders":
        found: dict[bytes, tuple[str, ...]] = {}
        for name, value in headers:
            if (named := name.lower()) in _OF_BODIES:
                found[named] = (*found.get(named, ()), value.decode("latin-1").strip())
        return cls(
            found.get(b"content-type", ()),
            found.get(b"content-length", ()),
            found.get(b"content-encoding", ()),
            b"transfer-encoding" in found,
        )

    @property
    def announce_nothing(self) -> bool:
        """Whether no body follows; a Content-Type alone announces none."""
        return not self.is_chunked and set(self.content_lengths) <= {"0"}

    @property
    def length_bytes(self) -> int | None:
        """The announced length, once it is checked; None when only the end of the body tells it."""
        return int(self.content_lengths[0]) if self.content_lengths else None

    def media_type(self, known: frozenset[str]) -> str:
        """Return the media type, in lower case and without parameters.

        Raises:
            HttpProblem: 415: it is missing or unsupported, or the body is not UTF-8 or compressed.
        """
        wanted = " or ".join(sorted(known))
        if len(self.content_types) != 1:
            raise _unsupported(f"Send one Content-Type: {wanted}.")
        media_type, *parameters = self.content_types[0].split(";")
        media_type = media_type.strip().lower()
        if media_type not in known:
            raise _unsupported(f"'{media_type[:MAX_ECHO_LENGTH]}' is not supported here; send {wanted}.")
        charsets = STREAM_CHARSETS if media_type in STREAM_TYPES else UTF8_CHARSETS
        if any(_names_other_charset(parameter, charsets) for parameter in parameters):
            raise _unsupported("The body must be UTF-8.")
        if any(coding.lower() not in {"", "identity"} for coding in self.content_codings):
            raise _unsupported("Compressed bodies are not supported; send it without Content-Encoding.")
        return media_type

    def check_length(self, cap_bytes: int) -> None:
        """Check the announced length.

        Raises:
            HttpProblem: 413 when it is over the cap, 400 when it is not a length.
        """
        match self.content_lengths:
            case ():
                return
            case (length,) if length.isascii() and length.isdigit() and not self.is_chunked:
                # Twenty digits are more than any cap, and Python refuses to parse thousands of them.
                if len(length.lstrip("0")) > 20 or int(length) > cap_bytes:
                    raise _too_large(cap_bytes)
            case _:
                raise HttpProblem(HTTPStatus.BAD_REQUEST, "Content-Length is not the length of a body.")


def _names_other_charset(parameter: str, charsets: frozenset[str]) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip().lower() == "charset" and value.strip(" \t\"'").lower() not in charsets


def _with_content_type(scope: Scope, media_type: str) -> Scope:
    kept = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-type"]
    return {**scope, "headers": [*kept, (b"content-type", media_type.encode("latin-1"))]}


def _too_large(cap_bytes: int) -> HttpProblem:
    return HttpProblem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is limited to {cap_bytes:,} bytes.")


def _unsupported(detail: str) -> HttpProblem:
    return HttpProblem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
