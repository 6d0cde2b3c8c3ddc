"""Where a redirect leads. Pure; `consumer.handlers.hops` goes there."""

import string
from collections.abc import Mapping
from urllib.parse import quote_from_bytes, urljoin

from yarl import URL

from consumer.handlers.client import basic_authorization
from consumer.handlers.failures import REDIRECT_INVALID, Failure
from shared.kinds.urls import normalize_url

REDIRECTS = frozenset({301, 302, 303, 307, 308})


def leads_on(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether an answer says where to go on."""
    return status in REDIRECTS and "Location" in headers


def next_target(current: URL, headers: Mapping[str, str]) -> URL | Failure:
    """Return where a redirect leads, without credentials; or that it is no HTTP URL."""
    location = headers["Location"]
    # aiohttp hands over bytes beyond ASCII as surrogates or UTF-8; browsers percent-encode them.
    octets = location.encode("utf-8", "surrogateescape")
    reference = quote_from_bytes(octets, safe=string.printable)
    try:
        target = URL(normalize_url(urljoin(str(current), reference)), encoded=True)
    except ValueError:
        return REDIRECT_INVALID
    target, _ = without_credentials(target)
    # A redirect without a fragment inherits the one it came from (RFC 9110 section 10.2.2).
    return target if target.raw_fragment else target.with_fragment(current.fragment or None)


def without_credentials(url: URL) -> tuple[URL, dict[str, str]]:
    """Return a URL without its credentials, and the header that they make."""
    if url.user is None and url.password is None:
        return url, {}
    return url.with_user(None), {"Authorization": basic_authorization(url.user or "", url.password or "")}
