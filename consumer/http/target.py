"""Where a request goes: its URL as results show it, and as aiohttp puts it on the wire."""

from typing import NamedTuple
from urllib.parse import unquote

from yarl import URL

from consumer.http.client import basic_authorization
from consumer.http.failures import Failure, redirect_invalid
from shared.urls import MAX_URL_LENGTH, TOO_LONG, InvalidReference, join_url, without_credentials


class Target(NamedTuple):
    """One request's target.

    Attributes:
        url: Normalized, with its fragment, without credentials.
        wire: The same without the fragment, which is never sent; byte for byte what is asked for. Its path
            ends in the `?` of an empty query.
    """

    url: str
    wire: URL


def target_of(url: str) -> Target:
    """Return the target that a normalized URL without credentials names."""
    sent = url.partition("#")[0]
    wire = URL(sent, encoded=True)
    if sent[-1] == "?" and not wire.raw_query_string:
        # yarl knows no empty query, so the path ends in its question mark.
        wire = wire.with_path(f"{wire.raw_path}?", encoded=True)
    return Target(url, wire)


def split_credentials(url: str) -> tuple[str, dict[str, str]]:
    """Return a normalized URL without its credentials, and the header that they make."""
    bare = without_credentials(url)
    if bare == url:
        return url, {}
    parsed = URL(url, encoded=True)
    # Octets that are no UTF-8 go out as they are, as from curl and browsers.
    user, password = (
        unquote(part or "", errors="surrogateescape") for part in (parsed.raw_user, parsed.raw_password)
    )
    return bare, {"Authorization": basic_authorization(user, password)}


def redirect_target(current: Target, location: str) -> Target | Failure:
    """Return where a redirect leads, without credentials, or why it leads nowhere.

    Without a fragment it inherits the one of where it came from; an empty one counts (RFC 9110 section
    10.2.2; Fetch Standard, "location URL").
    """
    try:
        url = without_credentials(join_url(location, base=current.url))
    except InvalidReference as error:
        return redirect_invalid(str(error))
    if "#" not in url:
        url += "".join(current.url.partition("#")[1:])
    return target_of(url) if len(url) <= MAX_URL_LENGTH else redirect_invalid(TOO_LONG)
