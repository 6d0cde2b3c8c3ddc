"""What a handler works with, and the requests that it makes from a job's arguments."""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import unquote

from yarl import URL

from consumer.compute.pool import ComputePool
from consumer.http.failures import Failure, secret_missing
from consumer.http.robots import RobotsFiles
from consumer.http.session import HttpSession
from consumer.politeness.address_limiters import AddressLimiters
from consumer.politeness.host_limiters import NO_PERMIT, FirstPermit, HostLimiters
from consumer.secrets import Secrets, Signer, secret_folder
from shared.hosts import host_key
from shared.kinds.requests import BasicAuth, BearerAuth, Redirects, RequestArgs, Robots, Secret
from shared.messages import JobMessage
from shared.redaction import NO_ECHOES, Echoes, is_secret_header, redact_url
from shared.urls import origin_words


@dataclass(frozen=True, slots=True)
class Client:
    """What one attempt has to work with.

    Attributes:
        session: The one of this worker.
        secrets: Those of targets.
        limiters: Keep the worker polite to hosts.
        addresses: Keep it polite to the machines behind them.
        robots: What the hosts' robots.txt say.
        signer: Signs webhooks.
        compute: Looks at large answers, and at answers with strangers' programs.
        inline_body_bytes: Up to this size a body is part of the result.
        job: Whose attempt it is; None only in tests.
        first_permit: The permits for the first request of the attempt.
    """

    session: HttpSession
    secrets: Secrets = field(default_factory=Secrets)
    limiters: HostLimiters = field(default_factory=HostLimiters)
    robots: RobotsFiles = field(default_factory=RobotsFiles)
    signer: Signer = field(default_factory=Signer)
    compute: ComputePool = field(default_factory=ComputePool)
    inline_body_bytes: int = 65_536
    job: JobMessage | None = None
    first_permit: FirstPermit = NO_PERMIT
    addresses: AddressLimiters = field(default_factory=AddressLimiters)

    def for_job(self, job: JobMessage, first_permit: FirstPermit) -> "Client":
        """Return the client of one attempt. `dataclasses.replace` would take several times as long."""
        return Client(
            self.session,
            self.secrets,
            self.limiters,
            self.robots,
            self.signer,
            self.compute,
            self.inline_body_bytes,
            job,
            first_permit,
            self.addresses,
        )

    def names(self, url: str) -> tuple[str, str]:
        """Return for whom this attempt computes: its batch or job, and the host that it asked."""
        job = self.job
        return str((job.batch_id or job.id) if job else ""), host_key(url) or ""


class HttpRequest(NamedTuple):
    """A request to make, redirects and all. What it may hold of secrets goes to its own origin and to no log.

    Attributes:
        secret_headers: The names of those whose value is a secret.
        echoes: Masks its secrets where the target sends them back.
        allow_downgrade: Whether a redirect may lead from https to http.
        connect_timeout_seconds: For name, connection and TLS of each request of the chain.
        first_byte_timeout_seconds: From there to the header of each answer.
    """

    method: str
    url: str
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes | None = None
    redirects: Redirects = Redirects.FOLLOW
    max_redirects: int = 10
    allow_downgrade: bool = True
    connect_timeout_seconds: float | None = None
    first_byte_timeout_seconds: float | None = None
    robots: Robots = Robots.IGNORE
    secret_headers: frozenset[str] = frozenset()
    echoes: Echoes = NO_ECHOES

    def __repr__(self) -> str:
        return f"HttpRequest({self.method!r}, {redact_url(self.url)!r})"

    @property
    def is_timed(self) -> bool:
        """Whether its requests have limits of their own."""
        return self.connect_timeout_seconds is not None or self.first_byte_timeout_seconds is not None


async def http_request(
    args: RequestArgs,
    secrets: Secrets,
    *,
    method: str,
    body: bytes | None = None,
    allow_downgrade: bool = True,
    job: JobMessage | None = None,
) -> HttpRequest | Failure:
    """Return the request that arguments describe, its secrets filled in; or which secret cannot be had.

    Args:
        job: Brings secrets of its project.
    """
    # Most requests name none, and read nothing.
    named = _named_secrets(args) if args.headers or args.auth else None
    found = await secrets.find_all(named, url=args.url, job=job) if named else {}
    headers: dict[str, str] = {}
    for name, value in args.headers.items():
        filled = _fill(value, found, args.url)
        if isinstance(filled, Failure):
            return filled
        headers[name] = filled
    if args.auth is not None:
        credentials = _authorization(args.auth, found, args.url)
        if isinstance(credentials, Failure):
            return credentials
        headers["Authorization"] = credentials
    return HttpRequest(
        method,
        args.url,
        headers,
        body,
        args.redirects,
        args.max_redirects,
        allow_downgrade,
        connect_timeout_seconds=args.connect_timeout_seconds,
        first_byte_timeout_seconds=args.first_byte_timeout_seconds,
        robots=args.robots,
        secret_headers=_secret_headers(args) if args.headers else _NO_HEADERS,
        echoes=Echoes.of(frozenset(_said_in_secret(args, found, headers)))
        if headers or "@" in args.url
        else NO_ECHOES,
    )


_NO_HEADERS: frozenset[str] = frozenset()
_BETWEEN_PARTS = re.compile(r"[ \t;,=]+")
# A header that is called a cookie or a key may say `theme=default`, and `password` is a word of many pages.
# No real key is so short.
_MIN_WRITTEN_OUT = 12


def _said_in_secret(
    args: RequestArgs, found: Mapping[str, str | Failure], headers: Mapping[str, str]
) -> Iterator[str]:
    """Yield what the target is told and nobody else: secrets, keys written out, credentials of the URL."""
    yield from (value for value in found.values() if isinstance(value, str))
    for name, value in headers.items():
        if is_secret_header(name):
            # Of `Bearer abc` and `one=abc; two=def` the parts may come back without what is around them.
            parts = (value, *_BETWEEN_PARTS.split(value))
            yield from (part for part in parts if len(part) >= _MIN_WRITTEN_OUT)
    if "@" in args.url and (url := URL(args.url, encoded=True)).raw_user is not None:
        user, password = (
            unquote(part or "", errors="surrogateescape") for part in (url.raw_user, url.raw_password)
        )
        yield basic_authorization(user, password).partition(" ")[2]
        # Without a password the user is one, as the tokens of many APIs are.
        written = password or user
        if not written.isalpha() or len(written) >= _MIN_WRITTEN_OUT:
            yield written


def _secret_headers(args: RequestArgs) -> frozenset[str]:
    return frozenset(name for name, value in args.headers.items() if isinstance(value, Secret))


def basic_authorization(username: str, password: str) -> str:
    """Return the value of `Authorization` (RFC 7617), in UTF-8, which today's servers expect.

    Octets that a URL had and that are no UTF-8 come as surrogates, and go out as they were.
    """
    octets = f"{username}:{password}".encode("utf-8", "surrogateescape")
    return f"Basic {base64.b64encode(octets).decode()}"


def _named_secrets(args: RequestArgs) -> set[str]:
    values: list[str | Secret] = [*args.headers.values()]
    match args.auth:
        case BasicAuth(password=password):
            values.append(password)
        case BearerAuth(token=token):
            values.append(token)
    return {value.secret for value in values if isinstance(value, Secret)}


def _authorization(
    auth: BasicAuth | BearerAuth, found: Mapping[str, str | Failure], url: str
) -> str | Failure:
    match auth:
        case BasicAuth():
            password = _fill(auth.password, found, url)
            return password if isinstance(password, Failure) else basic_authorization(auth.username, password)
        case BearerAuth():
            token = _fill(auth.token, found, url)
            return token if isinstance(token, Failure) else f"Bearer {token}"


def _fill(value: str | Secret, found: Mapping[str, str | Failure], url: str) -> str | Failure:
    if isinstance(value, str):
        return value
    secret = found[value.secret]
    # A line feed would end the field; aiohttp refuses it, but its error does not name the secret.
    if isinstance(secret, str) and not secret.isprintable():
        return secret_missing(value.secret, origin_words(url), secret_folder(url))
    return secret
