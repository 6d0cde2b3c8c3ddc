"""Where pages are: parameters in a query, and `Link` headers as RFC 8288 has them. Pure."""

import string
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_from_bytes, unquote_plus, urljoin, urlsplit, urlunsplit

from shared.kinds.urls import normalize_url

_BLANKS = " \t"


def with_parameters(url: str, parameters: Mapping[str, str]) -> str:
    """Return a URL with these parameters in its query, in the place of any of their names.

    All others stay byte for byte: some servers sign or compare them.
    """
    parts = urlsplit(url)
    kept = [
        pair
        for pair in parts.query.split("&")
        if pair and unquote_plus(pair.partition("=")[0]) not in parameters
    ]
    added = [f"{quote(name, safe='[]')}={quote(value, safe='')}" for name, value in parameters.items()]
    return urlunsplit(parts._replace(query="&".join([*kept, *added])))


def absolute_url(reference: str, *, base: str) -> str | None:
    """Return the URL that a reference of a target leads to, or None when that is no HTTP URL."""
    # aiohttp hands over bytes beyond ASCII as surrogates or UTF-8; browsers percent-encode them.
    octets = reference.strip().encode("utf-8", "surrogateescape")
    try:
        return normalize_url(urljoin(base, quote_from_bytes(octets, safe=string.printable)))
    except ValueError:
        return None


def next_link(fields: Iterable[str]) -> str | None:
    """Return the target of the first link to the next page in `Link` header fields (RFC 8288 section 3).

    A link with an anchor is one of another page, so it does not count.
    """
    for target, parameters in _links(", ".join(fields)):
        if "next" in parameters.get("rel", "").lower().split() and "anchor" not in parameters:
            return target
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
        if self.skip_blanks() != '"':
            return name, self._take_token(";,")
        return name, self._take_quoted()

    def _take_token(self, ends: str) -> str:
        begin = self._at
        while self._at < len(self._text) and self._text[self._at] not in ends:
            self._at += 1
        return self._text[begin : self._at].strip(_BLANKS)

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
