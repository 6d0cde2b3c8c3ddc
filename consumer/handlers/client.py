"""What handlers ask the outside world with, and the requests that they make of a job's arguments."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import aiohttp

from consumer.handlers.failures import Failure, secret_missing
from consumer.handlers.robots import RobotsFiles
from consumer.handlers.signing import Signer
from consumer.politeness.gates import Gates
from consumer.secrets import Secrets
from shared.kinds.requests import BasicAuth, BearerAuth, Redirects, RequestArgs, Robots, Secret
from shared.kinds.urls import url_host
from shared.messages import JobMessage


@dataclass(frozen=True, slots=True)
class Client:
    """What one attempt has to work with.

    Attributes:
        session: The one of this worker.
        secrets: Those of targets.
        gates: Keep the worker polite to hosts.
        robots: What the hosts' robots.txt say.
        signer: Signs webhooks.
        inline_body_bytes: Up to this size a body is part of the result.
        job: Whose attempt it is; None in tests alone.
    """

    session: aiohttp.ClientSession
    secrets: Secrets = field(default_factory=Secrets)
    gates: Gates = field(default_factory=Gates)
    robots: RobotsFiles = field(default_factory=RobotsFiles)
    signer: Signer = field(default_factory=Signer)
    inline_body_bytes: int = 65_536
    job: JobMessage | None = None

    def for_job(self, job: JobMessage) -> "Client":
        """Return the same for an attempt of a job. `dataclasses.replace` would take several times as long."""
        return Client(
            self.session, self.secrets, self.gates, self.robots, self.signer, self.inline_body_bytes, job
        )


class Question(NamedTuple):
    """One request to make, redirects and all. Headers and body go to the URL's own origin alone, and no log.

    Attributes:
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

    def __repr__(self) -> str:
        return f"Question({self.method!r}, {self.url!r})"

    @property
    def is_timed(self) -> bool:
        """Whether any of its requests has a limit of its own."""
        return self.connect_timeout_seconds is not None or self.first_byte_timeout_seconds is not None


def question_of(
    args: RequestArgs,
    secrets: Secrets,
    *,
    method: str,
    body: bytes | None = None,
    allow_downgrade: bool = True,
) -> Question | Failure:
    """Return the request that arguments describe, its secrets filled in; or which of them is missing."""
    headers: dict[str, str] = {}
    for name, value in args.headers.items():
        filled = _fill(value, secrets, args.url)
        if isinstance(filled, Failure):
            return filled
        headers[name] = filled
    if args.auth is not None:
        credentials = _authorization(args.auth, secrets, args.url)
        if isinstance(credentials, Failure):
            return credentials
        headers["Authorization"] = credentials
    return Question(
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
    )


def basic_authorization(username: str, password: str) -> str:
    """Return the value of `Authorization` (RFC 7617), with UTF-8, which is what servers of today expect."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def _authorization(auth: BasicAuth | BearerAuth, secrets: Secrets, url: str) -> str | Failure:
    match auth:
        case BasicAuth():
            password = _fill(auth.password, secrets, url)
            return password if isinstance(password, Failure) else basic_authorization(auth.username, password)
        case BearerAuth():
            token = _fill(auth.token, secrets, url)
            return token if isinstance(token, Failure) else f"Bearer {token}"


def _fill(value: str | Secret, secrets: Secrets, url: str) -> str | Failure:
    if isinstance(value, str):
        return value
    host = url_host(url)
    secret = secrets.read(value.secret, host=host)
    # A line feed in it would end the field; aiohttp refuses it, but not in words that name the secret.
    if secret is None or not secret.isprintable():
        return secret_missing(value.secret, host)
    return secret
