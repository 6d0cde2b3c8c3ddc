"""What of a request may go to another origin (RFC 6454: scheme, host, port): a whitelist. Pure.

Redirects and pages share it, so that all else stays: what nobody has named here is never sent. An origin that
another one has named is another, even where it is the job's own: whoever leads us back to it chose the URL.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from shared.urls import url_origin, with_credentials_of, without_credentials

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""The methods that ask and change nothing (RFC 9110 section 9.2.1), of those that a job can have."""

# What is liked, and not who asks: it opens no door, so any origin may see it. The Fetch Standard lets all but
# `Authorization` go on to another origin; but a field of a job's own may well be a key.
_HEADERS = frozenset(
    {
        "accept",
        "accept-charset",
        "accept-datetime",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "dnt",
        "pragma",
        "prefer",
        "range",
        "save-data",
        "user-agent",
    }
)

# Of the arguments of a fetch: how to ask, and what to do with the answer. None of them but `accept` is sent.
_ARGUMENTS = frozenset(
    {
        "accept",
        "connect_timeout_seconds",
        "extract",
        "first_byte_timeout_seconds",
        "max_bytes",
        "max_redirects",
        "method",
        "pages",
        "redirects",
        "robots",
        "statuses",
        "timeout_seconds",
    }
)


class Barrier(StrEnum):
    """Why a request cannot go to another origin."""

    BODY = "body"
    METHOD = "method"


def is_same_origin(url: str, other: str) -> bool:
    """Return whether two absolute http or https URLs are of one origin."""
    return url_origin(url) == url_origin(other)


def across(method: str, headers: Mapping[str, object], *, has_body: bool) -> dict[str, str] | Barrier:
    """Return the headers with which a request may go to another origin, or why it may not go at all.

    A body says what its own origin may know. A method that changes something was meant for one origin; done
    elsewhere, even without a body, it would be that origin's wish and not the job's.

    Args:
        method: Of the request that would be made there.
        headers: Those of the request to its own origin. A value that is no text names a secret.
        has_body: Whether the request that would be made there has a body.
    """
    if has_body:
        return Barrier.BODY
    if method not in SAFE_METHODS:
        return Barrier.METHOD
    return {
        name: value for name, value in headers.items() if isinstance(value, str) and name.lower() in _HEADERS
    }


def arguments_for(args: Mapping[str, Any], url: str, *, is_foreign: bool) -> dict[str, Any] | Barrier:
    """Return the arguments of a fetch with which a URL that a page named is fetched, or why it cannot be.

    Credentials in that URL are dropped. Within its origin the job's own take their place.

    Args:
        args: Those of the job whose page it was, with its `url`.
        url: Normalized.
        is_foreign: Whether another origin than the job's named it.
    """
    bare = without_credentials(url)
    if not is_foreign and is_same_origin(bare, args["url"]):
        return {**args, "url": with_credentials_of(args["url"], bare)}
    has_body = any(args.get(name) is not None for name in ("body", "json", "body_base64"))
    headers = across(args.get("method", "GET"), args.get("headers") or {}, has_body=has_body)
    if isinstance(headers, Barrier):
        return headers
    crossing = {name: value for name, value in args.items() if name in _ARGUMENTS}
    return {**crossing, **({"headers": headers} if headers else {}), "url": bare}
