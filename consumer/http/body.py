"""Bodies of strangers: read as they come, expanded, and complete, cut at a limit or refused."""

import zlib
from typing import NamedTuple, Protocol

import aiohttp
import brotli
from multidict import CIMultiDictProxy

from consumer.http.failures import (
    BODY_CORRUPT,
    BODY_TRUNCATED,
    Failure,
    body_too_large,
    failure_of_error,
    unsupported_encoding,
)

CHUNK_BYTES = 65_536
RAW_SLACK_BYTES = 65_536
"""How much larger than the limit the compressed form may be, far more than honest gzip adds."""


class Beginning(NamedTuple):
    """As much of an expanded body as was read, and whether that is all of it."""

    content: bytes
    is_whole: bool


async def read_body(response: aiohttp.ClientResponse, *, max_bytes: int) -> bytes | Failure:
    """Return the expanded body, or why there is none; one beyond the limit is `body_too_large`."""
    beginning = await read_beginning(response, max_bytes=max_bytes)
    if isinstance(beginning, Failure):
        return beginning
    return beginning.content if beginning.is_whole else body_too_large(max_bytes)


async def read_beginning(response: aiohttp.ClientResponse, *, max_bytes: int) -> Beginning | Failure:
    """Return the expanded body up to a limit, or why there is none.

    Both forms are counted as they come, so never more than the limit is held. The session must not expand
    bodies itself: aiohttp takes a gzip stream that stops half-way for a whole one.

    Args:
        max_bytes: Limit of the expanded body.
    """
    expander = _expander(content_codings(response.headers))
    if isinstance(expander, Failure):
        return expander
    body = bytearray()
    raw_bytes = 0
    try:
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            raw_bytes += len(chunk)
            body += expander.expand(chunk, max_bytes - len(body) + 1)
            if len(body) > max_bytes or raw_bytes > max_bytes + RAW_SLACK_BYTES:
                return Beginning(bytes(body[:max_bytes]), is_whole=False)
    except (zlib.error, brotli.error):
        return BODY_CORRUPT
    except (aiohttp.ClientError, OSError) as error:
        return failure_of_error(error)
    return Beginning(bytes(body), is_whole=True) if expander.is_complete else BODY_TRUNCATED


class _Expander(Protocol):
    """Turns the raw bytes of a body into its content."""

    @property
    def is_complete(self) -> bool:
        """Whether the stream has ended where its format says it ends."""

    def expand(self, chunk: bytes, max_bytes: int) -> bytes:
        """Return what the chunk expands to, at most `max_bytes` (at least 1) of it."""


class _Plain:
    is_complete = True

    def expand(self, chunk: bytes, max_bytes: int) -> bytes:
        return chunk[:max_bytes]


class _Zlib:
    """gzip (RFC 1952), zlib (RFC 1950) and, because servers send it as `deflate`, raw deflate (RFC 1951)."""

    def __init__(self) -> None:
        self._stream: zlib._Decompress | None = None
        self._held = b""

    @property
    def is_complete(self) -> bool:
        # An empty body is fine: answers to HEAD, and 204.
        return self._stream is None or self._stream.eof

    def expand(self, chunk: bytes, max_bytes: int) -> bytes:
        content = b""
        pending = self._held + chunk
        self._held = b""
        while pending and len(content) < max_bytes:
            if self._stream is None:
                self._stream = zlib.decompressobj(_window_bits(pending[0]))
            elif self._stream.eof:
                # A gzip file may have many members; anything else behind them is padding.
                if pending == _GZIP_MAGIC[:1]:
                    self._held = pending
                    break
                if not pending.startswith(_GZIP_MAGIC):
                    break
                self._stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
            content += self._stream.decompress(pending, max_bytes - len(content))
            pending = self._stream.unused_data
        return content


class _Brotli:
    """Brotli (RFC 7932)."""

    def __init__(self) -> None:
        self._stream = brotli.Decompressor()
        self._has_begun = False

    @property
    def is_complete(self) -> bool:
        return self._stream.is_finished() or not self._has_begun

    def expand(self, chunk: bytes, max_bytes: int) -> bytes:
        # Bytes behind the end are an error here: RFC 7932 knows no padding.
        self._has_begun = True
        content = bytearray(self._stream.process(chunk, output_buffer_limit=max_bytes))
        while len(content) < max_bytes and not self._stream.can_accept_more_data():
            content += self._stream.process(b"", output_buffer_limit=max_bytes - len(content))
        # Brotli begins no further block at the limit, but the last one may go a little beyond.
        return bytes(content[:max_bytes])


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
