"""Header fields of answers, in all their dialects: how long to stay away, and where to go on. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from shared.clock import utc_now

MAX_SECONDS = 366 * 86_400.0
"""No target means more, and a number below infinity survives JSON."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})

# No body of ours comes near it.
_USUAL_DIGITS = 15
_LENGTH = re.compile(r"[ \t]*0*(\d{1,18})[ \t]*", re.ASCII)
_MAY_ASK_TO_WAIT = frozenset({403, 408, 409, 413, 425, 429})

_SECONDS = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
# "30s" and "1m30s" are seen in the wild (linkinator issue 713).
_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d+)?)s)?", re.ASCII | re.IGNORECASE)
# RFC 9110 section 5.6.7: IMF-fixdate, RFC 850 and asctime.
_DATE_FORMATS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")


def honours_retry_after(status: int) -> bool:
    """Return whether `Retry-After` means anything in an answer of this status.

    RFC 9110 defines it for any answer, and names 413, 503 and redirects (sections 10.2.3 and 15.5.14); RFC
    6585 names 429. Hosts that limit us say it with 403 as well, and with 408, 409, 425 and all of 5xx. What
    is missing or wants credentials does not come by waiting.
    """
    return status in _MAY_ASK_TO_WAIT or 500 <= status < 600 or 300 <= status < 400


def asks_to_wait(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether an answer says when to come again, so that the same request may succeed then."""
    # With a redirect it is the time until the next hop, and says nothing of this request.
    return (
        status >= 400
        and honours_retry_after(status)
        and retry_after_seconds(headers, now=utc_now()) is not None
    )


def retry_after_seconds(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Return how long a target asks us to stay away (RFC 9110 section 10.2.3), or None if it does not say.

    A date is measured against the answer's own `Date`, when it has one, so that a clock that is
    wrong at either end does not matter.

    Args:
        headers: Those of the answer; names in any case if the mapping allows it, as aiohttp's does.
        now: Our own time, aware.

    Returns:
        Seconds in [0, a year]; a date in the past is 0.
    """
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    seconds = _duration_seconds(text)
    if seconds is None and (until := _http_date(text)):
        seconds = (until - (_http_date(headers.get("Date", "").strip()) or now)).total_seconds()
    return None if seconds is None else min(max(seconds, 0.0), MAX_SECONDS)


def declared_bytes(headers: Mapping[str, str]) -> int | None:
    """Return the `Content-Length` of an answer, or None when it has none that anybody can mean.

    Zeros before it say nothing, however many they are; `int` refuses thousands of them.
    """
    length = headers.get("Content-Length")
    if length is None:
        return None
    if len(length) <= _USUAL_DIGITS and length.isascii() and length.isdecimal():
        # Nearly always, and in a third of the time.
        return int(length)
    found = _LENGTH.fullmatch(length)
    return int(found[1]) if found else None


def leads_on(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether an answer is a redirect that says where to go on."""
    return status in REDIRECTS and "Location" in headers


def next_link(fields: Iterable[str]) -> str | None:
    """Return the target of the first link to the next page in `Link` header fields (RFC 8288 section 3).

    A link with an anchor is one of another page, so it does not count.
    """
    for target, parameters in _links(", ".join(fields)):
        if "next" in parameters.get("rel", "").lower().split() and "anchor" not in parameters:
            return target
    return None


def _duration_seconds(text: str) -> float | None:
    if _SECONDS.fullmatch(text):
        return float(text)
    if match := _DURATION.fullmatch(text):
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return hours * 3_600 + minutes * 60 + seconds
    return None


def _http_date(text: str) -> datetime | None:
    for date_format in _DATE_FORMATS:
        try:
            return datetime.strptime(text, date_format).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def _links(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    # RFC 8288 appendix B.2, which reads on past what it does not understand. Each character is read once.
    scanner = _Scanner(text)
    while scanner.skip_to("<"):
        target = scanner.take_until(">")
        if target is None:
            return
        parameters: dict[str, str] = {}
        while scanner.skip_blanks() == ";":
            name, value = scanner.take_parameter()
            # The first counts, section 3.3.
            parameters.setdefault(name, value)
        yield target, parameters


_SINGLE_QUOTED = re.compile(r"'([^';,]*)'(?=[ \t]*(?:[;,]|$))")


class _Scanner:
    """Reads a text once, from its start to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def skip_to(self, mark: str) -> bool:
        found = self._text.find(mark, self._at)
        self._at = len(self._text) if found < 0 else found + 1
        return found >= 0

    def take_until(self, mark: str) -> str | None:
        begin = self._at
        return self._text[begin : self._at - 1] if self.skip_to(mark) else None

    def skip_blanks(self) -> str:
        """Skip blanks, and return the character that follows; empty at the end."""
        while self._text[self._at : self._at + 1] in {" ", "\t"}:
            self._at += 1
        return self._text[self._at : self._at + 1]

    def take_parameter(self) -> tuple[str, str]:
        """Return one parameter, `;name=value`; without a value that is empty."""
        self._at += 1
        name = self._take_token("=;,").lower()
        if self.skip_blanks() != "=":
            return name, ""
        self._at += 1
        mark = self.skip_blanks()
        if mark == '"':
            return name, self._take_quoted()
        # Single quotes are none to RFC 8288, but some hosts send them so.
        if mark == "'" and (quoted := _SINGLE_QUOTED.match(self._text, self._at)):
            self._at = quoted.end()
            return name, quoted[1]
        return name, self._take_token(";,")

    def _take_token(self, ends: str) -> str:
        begin = self._at
        while self._at < len(self._text) and self._text[self._at] not in ends:
            self._at += 1
        return self._text[begin : self._at].strip(" \t")

    def _take_quoted(self) -> str:
        taken: list[str] = []
        self._at += 1
        while self._at < len(self._text) and self._text[self._at] != '"':
            if self._text[self._at] == "\\":
                self._at += 1
            taken.append(self._text[self._at : self._at + 1])
            self._at += 1
        self._at += 1
        return "".join(taken)
