"""Bodies of strangers: read as they come, expanded, and complete, cut at a limit or refused."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

import aiohttp
import brotli
from multidict import CIMultiDictProxy

from consumer.deadlines import uncounted
from consumer.http.body_room import FREE_BYTES, HeldRoom
from consumer.http.failures import (
    BODY_CORRUPT,
    BODY_TRUNCATED,
    COMPUTE_BUSY,
    Failure,
    body_too_large,
    failure_of_error,
    unsupported_encoding,
)

CHUNK_BYTES = 65_536
COMPRESSED_CHUNK_BYTES = 16_384
"""Fewer at once, because each may hold a thousand members of gzip."""

STEP_BYTES = 262_144
"""As much is expanded at once, in a millisecond; then others have their turn."""

STEP_MEMBERS = 500
SMALL_BYTES, SMALL_READS = 1_024, 4
"""Chunks of a byte or two make small reads; after so many of those, a millisecond, others have their turn."""

RAW_SLACK_BYTES = 65_536
"""How much larger than the limit the compressed form may be, far more than honest gzip adds."""


class Beginning(NamedTuple):
    """As much of an expanded body as was read, and whether that is all of it."""

    content: bytes
    is_whole: bool


async def read_body(
    response: aiohttp.ClientResponse, *, max_bytes: int, held: HeldRoom | None = None
) -> bytes | Failure:
    """Return the expanded body, or why there is none; one beyond the limit is `body_too_large`."""
    beginning = await read_beginning(response, max_bytes=max_bytes, held=held)
    if isinstance(beginning, Failure):
        return beginning
    return beginning.content if beginning.is_whole else body_too_large(max_bytes)


async def read_beginning(
    response: aiohttp.ClientResponse, *, max_bytes: int, held: HeldRoom | None = None
) -> Beginning | Failure:
    """Return the expanded body up to a limit, or why there is none.

    Both forms are counted as they come, so never more than the limit is held. The session must not expand
    bodies itself: aiohttp takes a gzip stream that stops half-way for a whole one.

    Args:
        max_bytes: Limit of the expanded body.
        held: Gives room to a body that turns out to be large.
    """
    expander = _expander(content_codings(response.headers))
    if isinstance(expander, Failure):
        return expander
    body = bytearray()
    raw_bytes = 0
    chunk_bytes = CHUNK_BYTES if isinstance(expander, _Plain) else COMPRESSED_CHUNK_BYTES
    try:
        async for chunk in _pieces(response.content, chunk_bytes):
            raw_bytes += len(chunk)
            expander.feed(chunk)
            while (piece := expander.take(min(STEP_BYTES, max_bytes - len(body) + 1))) is not None:
                if held is not None and len(body) + len(piece) > FREE_BYTES:
                    await _make_room(held, max_bytes)
                body += piece
                if len(body) > max_bytes:
                    return Beginning(bytes(body[:max_bytes]), is_whole=False)
                if expander.may_have_more():
                    await _turn()
            if raw_bytes > max_bytes + RAW_SLACK_BYTES:
                return Beginning(bytes(body), is_whole=False)
    except (zlib.error, brotli.error, aiohttp.ClientError, OSError, _NoRoom) as error:
        return _failure_of(error)
    return Beginning(bytes(body), is_whole=True) if expander.is_complete else BODY_TRUNCATED


class _NoRoom(Exception):
    """Other bodies take all the room that there is."""


def _failure_of(error: Exception) -> Failure:
    match error:
        case zlib.error() | brotli.error():
            return BODY_CORRUPT
        case _NoRoom():
            return COMPUTE_BUSY
        case _:
            return failure_of_error(error)


async def _make_room(held: HeldRoom, size: int) -> None:
    with uncounted() as left_seconds:
        try:
            # Before the limits around run out, which would blame the target.
            async with asyncio.timeout(max(left_seconds - _MARGIN_SECONDS, 0.0)):
                await held.take(size)
        except TimeoutError:
            raise _NoRoom from None


_MARGIN_SECONDS = 0.1


async def _pieces(content: aiohttp.StreamReader, size: int) -> AsyncIterator[bytes]:
    # What is there: `iter_chunked` would go on until it has its size, and thousands of chunks take long.
    small = 0
    async for received in content.iter_any():
        if len(received) < SMALL_BYTES:
            small += 1
            if small % SMALL_READS == 0:
                # A read that finds something waits for nothing, so nobody else would have a turn.
                await _turn()
        for at in range(0, len(received), size):
            yield received[at : at + size]


async def _turn() -> None:
    """Wait until the loop has done all else that it had to do, and no other body is expanded meanwhile.

    A hundred bodies take a hundred steps of a millisecond, one in each turn of the loop.
    """
    loop = asyncio.get_running_loop()
    turn = _turns.get(loop)
    if turn is None:
        # A process has one loop, except in tests.
        _turns.clear()
        turn = _turns[loop] = asyncio.Lock()
    with uncounted():
        async with turn:
            await asyncio.sleep(0)


_turns: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}


class _Expander(Protocol):
    """Turns the raw bytes of a body into its content."""

    def may_have_more(self) -> bool:
        """Whether there may be more content in what it was fed."""

    @property
    def is_complete(self) -> bool:
        """Whether the stream has ended where its format says it ends."""

    def feed(self, chunk: bytes) -> None:
        """Add raw bytes, when there are none left."""

    def take(self, max_bytes: int) -> bytes | None:
        """Return the next content, at most `max_bytes` (at least 1) of it; None when it needs more raw bytes.

        It may be empty: what expands to nothing takes time, too.
        """


class _Plain:
    is_complete = True

    def __init__(self) -> None:
        self._pending = b""

    def may_have_more(self) -> bool:
        return False

    def feed(self, chunk: bytes) -> None:
        self._pending = chunk

    def take(self, max_bytes: int) -> bytes | None:
        if not self._pending:
            return None
        content, self._pending = self._pending[:max_bytes], self._pending[max_bytes:]
        return content


class _Zlib:
    """gzip (RFC 1952), zlib (RFC 1950) and, because servers send it as `deflate`, raw deflate (RFC 1951)."""

    def __init__(self) -> None:
        self._stream: zlib._Decompress | None = None
        self._pending = b""
        # Whether the stream has given all that it was asked for, and may have more without further input.
        self._is_full = False

    def may_have_more(self) -> bool:
        # The first octet behind a member does not say yet whether another one begins.
        is_half = self._is_at_end and self._pending == _GZIP_MAGIC[:1]
        return self._is_full or (bool(self._pending) and not is_half)

    @property
    def is_complete(self) -> bool:
        # An empty body is fine: answers to HEAD, and 204.
        return self._stream is None or self._stream.eof

    @property
    def _is_at_end(self) -> bool:
        return self._stream is not None and self._stream.eof

    def feed(self, chunk: bytes) -> None:
        self._pending += chunk

    def take(self, max_bytes: int) -> bytes | None:
        if not self.may_have_more():
            return None
        content = b""
        for _ in range(STEP_MEMBERS):
            if not self.may_have_more() or len(content) >= max_bytes:
                break
            content += self._next(max_bytes - len(content))
        return content

    def _next(self, max_bytes: int) -> bytes:
        """Return content of one member."""
        if self._stream is None:
            self._stream = zlib.decompressobj(_window_bits(self._pending[0]))
        elif self._stream.eof:
            # A gzip file may have many members; anything else behind them is padding.
            if not self._pending.startswith(_GZIP_MAGIC):
                self._pending = b""
                return b""
            self._stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
        content = self._stream.decompress(self._pending, max_bytes)
        self._pending = self._stream.unconsumed_tail or self._stream.unused_data
        self._is_full = len(content) == max_bytes and not self._stream.eof
        return content


class _Brotli:
    """Brotli (RFC 7932)."""

    def __init__(self) -> None:
        self._stream = brotli.Decompressor()
        self._has_begun = False
        self._pending = b""
        self._rest = b""

    @property
    def is_complete(self) -> bool:
        return self._stream.is_finished() or not self._has_begun

    def may_have_more(self) -> bool:
        return len(self._pending) + len(self._rest) > 0 or not self._stream.can_accept_more_data()

    def feed(self, chunk: bytes) -> None:
        # Bytes behind the end are an error here: RFC 7932 knows no padding.
        self._has_begun = True
        self._pending = chunk

    def take(self, max_bytes: int) -> bytes | None:
        if not self.may_have_more():
            return None
        content = self._rest
        if not content:
            pending, self._pending = self._pending, b""
            content = self._stream.process(pending, output_buffer_limit=max_bytes)
        # Brotli begins no further block at the limit, but the last one may go a little beyond.
        self._rest = content[max_bytes:]
        return content[:max_bytes]


_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW_BITS = zlib.MAX_WBITS | 16


def _window_bits(first_octet: int) -> int:
    if first_octet == _GZIP_MAGIC[0]:
        return _GZIP_WINDOW_BITS
    return zlib.MAX_WBITS if first_octet & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS


# The IANA registry of content codings, and compressions that are used without being in it.
_CODINGS = frozenset(
    (
        *("aes128gcm", "br", "bzip2", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "lz4", "lzma"),
        *(
            "pack200-gzip",
            "sdch",
            "snappy",
            "x-bzip2",
            "x-compress",
            "x-gzip",
            "x-lzma",
            "x-xz",
            "xz",
            "zstd",
        ),
    )
)


def content_codings(headers: CIMultiDictProxy[str]) -> list[str]:
    """Return the codings of a body, in small letters.

    Browsers take what is no coding, such as `none`, `UTF-8` and `aws-chunked`, for `identity`. The same field
    twice is the mark of two layers of a server, of which one has compressed.
    """
    fields = dict.fromkeys(headers.getall("Content-Encoding", ()))
    named = [part.partition(";")[0].strip(' \t"').lower() for field in fields for part in field.split(",")]
    return [coding for coding in named if coding in _CODINGS]


def _expander(codings: list[str]) -> _Expander | Failure:
    match codings:
        case []:
            return _Plain()
        case ["gzip" | "x-gzip" | "deflate"]:
            return _Zlib()
        case ["br"]:
            return _Brotli()
        case known:
            return unsupported_encoding(known)
