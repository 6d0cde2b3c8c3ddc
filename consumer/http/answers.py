"""Answers read as browsers read them: one that is complete counts, however badly it is said.

aiohttp's parser is strict, because it also stands in servers and proxies, where a byte too many may be a
request that somebody smuggles in. A worker passes nothing on: what comes behind an answer is dropped, and the
connection with it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, HttpResponseParser, RawResponseMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader

HEADER_BYTES = 32_768
"""One field; Content-Security-Policy and Set-Cookie go beyond aiohttp's 8,190 on the open web."""

HEADER_FIELDS = 256
HEAD_BYTES = 262_144
"""All fields of an answer together, and the interim answers before it; as much as Chrome takes."""

INTERIM_ANSWERS = 10
"""Of 1xx before the answer. A site sends one or two; Go's client gives up at the sixth."""

PIECE_BYTES = 16_384
"""As much of a head is parsed at once, so that what is too much of it is noticed early."""

FRAMING_BYTES = 524_288
"""Around the content of a chunked body, beyond as much as the content has: sizes and ends of chunks, their
extensions, fields behind it. A chunk of one byte has five, and costs as much as a large one. What was
received and not looked at yet counts for it too, up to 256 KiB."""

WAITING_CHUNKS = 256
"""So many chunks of a body wait to be read at most, so that those of a few bytes are taken a millisecond at a
time; aiohttp takes 4,096."""

READ_BUFFER_BYTES = 65_536

MAX_MENDED_BYTES = 131_072
"""A larger head is not mended. Mending begins anew with every line, so there is a limit of lines too."""

MAX_MENDED_LINES = 2 * HEADER_FIELDS
MAX_LOCATED_BYTES = 1_024
"""In a longer line the byte that is wrong is not looked for."""

Parsed = tuple[Sequence[tuple[RawResponseMessage, StreamReader]], bool, bytes]

_NOTHING: Parsed = ((), False, b"")


class Fault(str):
    """Where an answer is no HTTP and why, in words of ours; aiohttp carries it as an error's message."""

    __slots__ = ()


class TooLarge(Fault):
    """A head that is HTTP, but larger than we take."""

    __slots__ = ()


class TooMuchFraming(Fault):
    """A body that is HTTP, but with more around its content than we take."""

    __slots__ = ()


class AnswerProtocol(ResponseHandler):
    """A connection whose answers are read by an `AnswerParser`."""

    def _drain_tail(self) -> None:
        # The last that aiohttp does when a request is about to be sent; the parser is the request's.
        parser: Any = AnswerParser(self, self._parser)
        self._parser = parser
        if self._tail:
            super()._drain_tail()

    def new_parser(self) -> HttpResponseParser:
        """Return a parser such as aiohttp makes for the request that was sent."""
        return HttpResponseParser(
            self,
            self._loop,
            READ_BUFFER_BYTES,
            payload_exception=ClientPayloadError,
            response_with_body=not self._skip_payload,
            read_until_eof=True,
            auto_decompress=False,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADER_FIELDS,
        )

    def end(self) -> None:
        """Close the connection, so that nobody takes what still comes for an answer."""
        self.force_close()
        if self.transport is not None:
            self.transport.close()


class AnswerParser:
    """Reads one answer, and mends a head that aiohttp's parser refuses and browsers do not.

    What has not happened yet is an attribute of the class: every request makes one.
    """

    _seen: bytes | None = b""
    _error: HttpProcessingError | None = None
    _body: StreamReader | None = None
    _is_chunked = False
    _head_bytes = 0
    _interim = 0
    _body_bytes = 0

    def __init__(self, protocol: AnswerProtocol, parser: Any) -> None:
        """Begin an answer, with the parser that aiohttp made for it."""
        self._protocol = protocol
        self._parser = parser

    def feed_data(self, data: bytes) -> Parsed:
        """Return the answer, once its head is there; its body is fed as it comes.

        Raises:
            HttpProcessingError: it is no HTTP; the message is a `Fault`.
        """
        if self._body is not None:
            self._feed_body(self._body, data)
            return _NOTHING
        if len(data) > PIECE_BYTES:
            return self._feed_pieces(data)
        if self._seen is not None:
            self._seen = self._seen + data if self._seen else data
        if self._error is not None:
            may_help = b"\n" in data or len(self._seen or b"") > MAX_MENDED_BYTES
            return self._mended(self._error) if may_help else _NOTHING
        try:
            parsed: Parsed = self._parser.feed_data(data)
        except HttpProcessingError as error:
            return self._mended(error)
        messages = parsed[0]
        if len(messages) != 1 or messages[0][0].code < 200:
            self._head_bytes += len(data)
            return self._answered(parsed)
        # Nearly always: without a further call, since every request passes here.
        self._is_chunked, self._body, self._seen = messages[0][0].chunked, messages[0][1], None
        return parsed

    def feed_eof(self) -> RawResponseMessage | None:
        """Note the end of the connection, and return a head that it cut, if aiohttp can."""
        body = self._body
        if body is None and self._error is not None:
            self._protocol.set_exception(self._error)
        if body is not None and body.exception() is not None:
            return None  # What is wrong with it is known.
        if self._is_chunked and body is not None and not body.is_eof():
            # The last chunk completes a body (RFC 9112 section 8), even without the empty line behind it.
            self._parser.feed_data(b"\r\n")
        uncompleted: RawResponseMessage | None = self._parser.feed_eof()
        return uncompleted

    def pause_reading(self) -> None:
        """Stop in the middle of a body, until more of it is wanted."""
        self._parser.pause_reading()

    def _feed_pieces(self, data: bytes) -> Parsed:
        messages: list[tuple[RawResponseMessage, StreamReader]] = []
        upgraded, tail, at = False, b"", 0
        while at < len(data) and self._body is None:
            parsed = self.feed_data(data[at : at + PIECE_BYTES])
            messages, upgraded, tail = [*messages, *parsed[0]], parsed[1], parsed[2]
            at += PIECE_BYTES
        if self._body is not None and at < len(data):
            self._feed_body(self._body, data[at:])
        return messages, upgraded, tail

    def _answered(self, parsed: Parsed) -> Parsed:
        messages = parsed[0]
        for at, (message, body) in enumerate(messages, 1):
            if message.code < 100:
                raise HttpProcessingError(code=400, message=Fault("Status line: the status is below 100"))
            if message.code >= 200 or message.code == 101:
                self._body, self._is_chunked, self._seen = body, message.chunked, b""
                if at == len(messages):
                    return parsed
                self._protocol.end()
                return messages[:at], False, b""
            self._interim += 1
            if self._interim > INTERIM_ANSWERS:
                raise _refused(f"more than {INTERIM_ANSWERS} interim answers (1xx) before it")
        if self._head_bytes > HEAD_BYTES:
            raise _refused(f"more than {HEAD_BYTES:,} bytes")
        if messages and self._seen is not None:
            self._seen = self._seen[_end_of_head(self._seen) :]
        if self._seen is not None and len(self._seen) > MAX_MENDED_BYTES:
            self._seen = None
        return parsed

    def _feed_body(self, body: StreamReader, data: bytes) -> None:
        if body.is_eof():
            if data:
                self._protocol.end()
            return
        if self._is_chunked:
            if not self._body_bytes:
                body._high_water_chunks = WAITING_CHUNKS  # noqa: SLF001 - there is no public name
                body._low_water_chunks = WAITING_CHUNKS // 2  # noqa: SLF001
            self._body_bytes += len(data)
            if self._body_bytes > FRAMING_BYTES + 2 * body.total_bytes:
                body.set_exception(ClientPayloadError(TooMuchFraming("too much framing")))
                self._protocol.end()
                return
        try:
            has_more = bool(self._parser.feed_data(data)[0])
        except HttpProcessingError as error:
            has_more = True
            self._end_body(body, error)
        if has_more:
            self._protocol.end()

    def _end_body(self, body: StreamReader, error: HttpProcessingError) -> None:
        said = _words(error)
        if self._is_chunked and "chunk" not in said.lower():
            body.feed_eof()  # It is about the trailer, so the last chunk is there.
        if not body.is_eof():
            fault = Fault(f"Body, after {body.total_bytes:,} bytes: {said}")
            body.set_exception(ClientPayloadError(fault), error)

    def _mended(self, error: HttpProcessingError) -> Parsed:
        """Read the head again, mended; return nothing if it may still become one.

        Raises:
            HttpProcessingError: nothing can be done about it.
        """
        if self._seen is None:
            raise self._located([], error) from error
        lines, rest = mended_head(self._seen)
        parser = self._protocol.new_parser()
        try:
            parsed: Parsed = parser.feed_data(b"".join(lines))
        except HttpProcessingError as second:
            raise self._located(lines, second) from error
        if rest is None:
            self._error = self._error or self._located(list(_raw_lines(self._seen)), error)
            if len(self._seen) > MAX_MENDED_BYTES or self._seen.count(b"\n") > MAX_MENDED_LINES:
                raise self._error
            return _NOTHING
        self._parser = parser
        parsed = self._answered(parsed)
        if self._body is not None and rest:
            self._feed_body(self._body, rest)
        return parsed

    def _located(self, lines: list[bytes], error: HttpProcessingError) -> HttpProcessingError:
        """Return the error with where it is: the lines are fed one after the other, the last byte by byte."""
        parser = self._protocol.new_parser()
        field = 0
        for number, line in enumerate(lines):
            try:
                parser.feed_data(line)
            except HttpProcessingError as found:
                said = _words(found)
                if too_large := _too_large(found):
                    return too_large
                # aiohttp looks at a whole field when the next one begins.
                is_late = said == _NOTED_LATE
                byte = _nul_byte(lines[number - 1]) if is_late else self._bad_byte(lines[:number], line)
                place = f"Header field {field - is_late}" if field else "Status line"
                return HttpProcessingError(code=400, message=Fault(f"{place}{byte}: {said}"))
            field = field + 1 if line.strip() else 0
        return _too_large(error) or HttpProcessingError(code=400, message=Fault(_words(error)))

    def _bad_byte(self, before: list[bytes], line: bytes) -> str:
        if len(line) > MAX_LOCATED_BYTES:
            return ""
        parser = self._protocol.new_parser()
        parser.feed_data(b"".join(before))
        for at in range(len(line)):
            try:
                parser.feed_data(line[at : at + 1])
            except HttpProcessingError:
                return f", byte {at + 1} (0x{line[at]:02x})"
        return ""


def mended_head(seen: bytes) -> tuple[list[bytes], bytes | None]:
    """Return the lines of a head as strict parsers want them, and what follows; None if it is not complete.

    A part of a line at the end is left out, unless it is one of no status line.
    """
    heads: list[bytes] = []
    lines: list[bytes] = []
    end = 0
    for raw in _raw_lines(seen):
        if not raw.endswith(b"\n"):
            break
        end += len(raw)
        line = raw.rstrip(b"\r\n")
        if line:
            lines.append(line if lines else _mended_status_line(line))
        elif lines:
            heads += [*_ended(lines), b"\r\n"]
            if not _INTERIM.match(lines[0]):
                return heads, seen[end:]
            lines = []
    begun = seen[end:]
    if not lines and not _BEGINNING.fullmatch(begun):
        return [*heads, begun], None
    return [*heads, *_ended(lines)], None


_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)")
# What may become a status line that can be mended.
_BEGINNING = re.compile(
    rb"(?:h|ht|htt|http|http/\d?(?:\.\d*)?|http/\d(?:\.\d+)?[ \t]+(?:\d{0,3}|\d{3}(?!\d).*))?",
    re.IGNORECASE | re.DOTALL,
)
_STATUS_LINE = re.compile(
    rb"HTTP/(?P<version>\d(?:\.\d+)?)[ \t]+(?P<status>\d{3})(?!\d)[ \t]*(?P<reason>.*)",
    re.IGNORECASE | re.DOTALL,
)
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_LENGTH, _CODING = b"content-length", b"transfer-encoding"


def _raw_lines(seen: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(seen):
        end = seen.find(b"\n", start) + 1 or len(seen)
        yield seen[start:end]
        start = end


def _end_of_head(seen: bytes) -> int:
    return max(seen.rfind(b"\n\n") + 2, seen.rfind(b"\n\r\n") + 3, 0) if b"\n" in seen else 0


def _ended(lines: list[bytes]) -> list[bytes]:
    return [line + b"\r\n" for line in [*lines[:1], *_mended_fields(lines[1:])]]


def _mended_status_line(line: bytes) -> bytes:
    # Names of protocols have no case to browsers, and a higher minor version is 1.1 (RFC 9110 section 2.5).
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        return line
    is_old = match["version"] in {b"0.9", b"1.0"}
    reason = match["reason"].replace(b"\r", b" ")
    return b"HTTP/1.%d %b %b" % (not is_old, match["status"], reason)


def _mended_fields(lines: list[bytes]) -> Iterator[bytes]:
    fields = list(_split_fields(lines))
    codings = [value.lower() for name, value in fields if name.lower() == _CODING]
    is_coded = any(value not in {b"", b"identity"} for value in codings)
    lengths = [
        part.strip().lstrip(b"0") or part.strip()[:1]
        for name, value in fields
        if name.lower() == _LENGTH
        for part in value.split(b",")
    ]
    # A coding goes before a length (RFC 9112 section 6.3). The same length said twice is said once (RFC 9110
    # section 8.6); different ones stay, and are refused.
    left = set() if is_coded else {length for length in lengths if length}
    for name, value in fields:
        if name.lower() == _LENGTH:
            if left:
                yield b"Content-Length: " + b", ".join(sorted(left))
            left = set()
        elif is_coded or name.lower() != _CODING:
            yield name + b": " + value


def _split_fields(lines: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Give names and values; what is no field is left out, as browsers do it."""
    name, value = b"", b""
    for line in lines:
        if line[:1] in b" \t":  # RFC 9112 section 5.2
            value += b" " + line.strip()
            continue
        if _TOKEN.fullmatch(name):
            yield name, value
        # Blanks before the colon are removed (RFC 9112 section 5.1), a bare CR is a blank (section 2.2).
        said, colon, value = line.replace(b"\r", b" ").partition(b":")
        name, value = said.rstrip(b" \t") if colon else b"", value.strip(b" \t")
    if _TOKEN.fullmatch(name):
        yield name, value


def _words(error: HttpProcessingError) -> str:
    """Return what the parser says, without what it quotes of the answer."""
    said = error.message.removeprefix("Bad status line:\n  ").partition(":")[0]
    said = said.replace(", RTSP/ or ICE/", "")
    return said if _PLAIN_WORDS.fullmatch(said) else "not valid"


def _too_large(error: HttpProcessingError) -> HttpProcessingError | None:
    if isinstance(error, LineTooLong):
        return _refused(f"a line of more than {HEADER_BYTES:,} bytes")
    if _words(error) == "Too many headers received":
        return _refused(f"more than {HEADER_FIELDS} fields")
    return None


def _refused(why: str) -> HttpProcessingError:
    return HttpProcessingError(code=400, message=TooLarge(why))


def _nul_byte(line: bytes) -> str:
    at = line.find(b"\0")
    return f", byte {at + 1} (0x00)" if at >= 0 else ""


_NOTED_LATE = "Invalid HTTP header"
_PLAIN_WORDS = re.compile(r"(?:[A-Za-z0-9 ,/`-]|n't\b){1,80}")
