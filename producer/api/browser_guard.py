"""The browser guard: keeps pages of others, opened in a browser that can reach this service, from using it.

Without keys whoever reaches the API's port is served, and any page that an operator visits can make the
browser send what needs no leave: a POST of text/plain. What such a page cannot do is to say that it is
another one: `Origin` (RFC 6454) and `Sec-Fetch-Site` (W3C Fetch Metadata) are the browser's own. Reading
takes leave, by CORS, which this service never gives; a page whose name leads to this address needs none,
and is told by `Host`.
"""

from collections.abc import Iterable
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from producer.api.guard import MAX_ECHO_LENGTH
from producer.api.problems import HttpProblem, problem_response
from producer.api.refusals import Refusal, Refusals, client_of
from shared.allowed_hosts import AllowedHosts, split_host, split_origin
from shared.origins import SAFE_METHODS
from shared.settings import Settings

# What a page of this service sends, and what a person does who types an address.
_OWN_SITES = frozenset({b"same-origin", b"none"})
# How many spellings of allowed hosts are remembered.
_MAX_KNOWN = 1_000


class BrowserGuard:
    """Refuses requests to hosts that are not ours, and unsafe ones from pages that are not ours."""

    def __init__(self, app: ASGIApp, *, settings: Settings, refusals: Refusals) -> None:
        self._app = app
        self._refusals = refusals
        names = (settings.api_host, settings.agent_host)
        self._hosts = AllowedHosts(settings.api_allowed_hosts, listens_on=names)
        self._origins = frozenset(origin.encode() for origin in settings.api_allowed_origins)
        self._known: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it unread."""
        if scope["type"] == "http" and (problem := self._refusal(scope)) is not None:
            await problem_response(problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> HttpProblem | None:
        hosts, origins, sites = [], [], []
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
            elif name == b"sec-fetch-site":
                sites.append(value)
        if not (len(hosts) == 1 and hosts[0] in self._known) and (problem := self._wrong_host(scope, hosts)):
            return problem
        if scope["method"] in SAFE_METHODS or not (origins or sites):
            return None
        return self._wrong_origin(scope, hosts, origins, sites)

    def _wrong_host(self, scope: Scope, hosts: list[bytes]) -> HttpProblem | None:
        """Return what is wrong with the host, as RFC 9112 section 3.2 says, or with which one it is."""
        if not hosts and scope["http_version"] == "1.0":
            # Old probes, and no browser.
            return None
        if len(hosts) != 1:
            return HttpProblem(HTTPStatus.BAD_REQUEST, "A request has one field Host (RFC 9112 section 3.2).")
        if (parts := split_host(hosts[0].decode("latin-1"))) is None:
            return HttpProblem(HTTPStatus.BAD_REQUEST, "The field Host is no host with an optional port.")
        host, _ = parts
        if not self._hosts.allows(host):
            self._refusals.count(Refusal.HOST, client=client_of(scope), what=host[:MAX_ECHO_LENGTH])
            # The client has reached another server than the one it looked for (RFC 9110 section 15.5.20).
            detail = (
                f"This service does not answer to the host '{host[:MAX_ECHO_LENGTH]}'. "
                "RETRIEVER_API_ALLOWED_HOSTS names those that it answers to, beside addresses and localhost."
            )
            return HttpProblem(HTTPStatus.MISDIRECTED_REQUEST, detail)
        if len(self._known) < _MAX_KNOWN:
            self._known.add(hosts[0])
        return None

    def _wrong_origin(
        self, scope: Scope, hosts: list[bytes], origins: list[bytes], sites: list[bytes]
    ) -> HttpProblem | None:
        """Return why a page may not do this; None when it is one of ours, or allowed."""
        if len(origins) == 1 and origins[0].lower() in self._origins:
            return None
        if all(_is_own(origin, hosts) for origin in origins) and _OWN_SITES.issuperset(sites):
            return None
        named = origins[0].decode("latin-1")[:MAX_ECHO_LENGTH] if origins else "another"
        self._refusals.count(Refusal.ORIGIN, client=client_of(scope), what=named)
        detail = (
            f"A page of the origin '{named}' may not change anything here. "
            "RETRIEVER_API_ALLOWED_ORIGINS names origins that may, beside this service's own."
        )
        return HttpProblem(HTTPStatus.FORBIDDEN, detail)


def _is_own(origin: bytes, hosts: Iterable[bytes]) -> bool:
    """Return whether an origin has the host and the port that the request is for.

    Its scheme may be another than ours: a proxy that speaks TLS for us leaves `Host` as it was.
    """
    if (parts := split_origin(origin.decode("latin-1"))) is None:
        return False
    scheme_port, named = parts
    for value in hosts:
        host = split_host(value.decode("latin-1"))
        if host is None or (host[0], host[1] or scheme_port) != named:
            return False
    return bool(hosts)
