"""Cookies that hosts set on the way of one chain of redirects (RFC 6265); they are gone with it.

Log-in walls and consent pages redirect in circles until their cookie comes back.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from aiohttp import CookieJar
from multidict import CIMultiDictProxy
from yarl import URL

MAX_FIELD_LENGTH = 5_120
"""Browsers ignore a cookie of more than 4,096 bytes and attributes of more than 1,024 (RFC 6265bis 5.6)."""


class ChainCookies:
    """The cookies of one chain.

    One that came over https never goes over http, even if its host did not say `Secure`: it may stand for
    credentials that went there. One for a whole top-level domain is none (RFC 6265 section 5.3, point 5).
    """

    __slots__ = ("_hosts", "_jar")

    def __init__(self) -> None:
        """Begin without any."""
        # Hosts without a name may have cookies too; to aiohttp that is unsafe, since it keeps them for long.
        self._jar = CookieJar(unsafe=True)
        self._hosts: set[str] = set()

    def note(self, headers: CIMultiDictProxy[str], url: URL) -> None:
        """Keep what an answer sets; what cannot be read, or sent back, is ignored."""
        fields = _readable(headers.getall("Set-Cookie", ()))
        more = "; Secure" if url.scheme == "https" else ""
        self._jar.update_cookies_from_headers([f"{field}{more}" for field in fields], url)
        self._hosts.add(url.raw_host or "")
        self._jar.clear(lambda cookie: "." not in cookie["domain"] and cookie["domain"] not in self._hosts)

    def sent_to(self, url: URL) -> str:
        """Return the cookies for a request, as `Cookie` has them; empty if there are none."""
        found = self._jar.filter_cookies(url)
        # The jar would quote anew; hosts compare with what they wrote (RFC 6265 section 5.4, point 4).
        written = {(cookie.key, cookie.value): cookie.coded_value for cookie in self._jar}
        return "; ".join(f"{cookie.key}={written[cookie.key, cookie.value]}" for cookie in found.values())


def with_cookies(headers: Mapping[str, str], cookies: str) -> Mapping[str, str]:
    """Return headers with more cookies; one of the job gives way to one of the same name, which is newer."""
    newer = {pair.partition("=")[0] for pair in cookies.split("; ")}
    own = [value for name, value in headers.items() if name.lower() == "cookie"]
    pairs = [pair.strip() for value in own for pair in value.split(";")]
    kept = [pair for pair in pairs if pair and pair.partition("=")[0].strip() not in newer]
    others = {name: value for name, value in headers.items() if name.lower() != "cookie"}
    return {**others, "Cookie": "; ".join([*kept, cookies])}


def _readable(fields: Iterable[str]) -> Iterator[str]:
    for field in fields:
        # aiohttp hands over bytes that are not UTF-8 as surrogates, which cannot be sent.
        if len(field) <= MAX_FIELD_LENGTH and not _SURROGATE.search(field):
            yield field


_SURROGATE = re.compile("[\ud800-\udfff]")
