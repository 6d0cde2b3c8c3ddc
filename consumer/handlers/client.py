"""What handlers ask the outside world with, and the requests that they make of a job's arguments."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

from consumer.handlers.failures import Failure, secret_missing
from consumer.handlers.robots import RobotsFiles
from consumer.politeness.gates import Gates
from consumer.secrets import Secrets
from shared.kinds.requests import BasicAuth, BearerAuth, Redirects, RequestArgs, Robots, Secret
from shared.kinds.urls import url_host


@dataclass(frozen=True, slots=True)
class Client:
    """The one session of a worker, the secrets of targets, and what keeps it polite to hosts."""

    session: aiohttp.ClientSession
    secrets: Secrets = field(default_factory=Secrets)
    gates: Gates = field(default_factory=Gates)
    robots: RobotsFiles = field(default_factory=RobotsFiles)


@dataclass(frozen=True, slots=True)
class Question:
    """One request to make, redirects and all. Headers and body go to the URL's own origin alone."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    redirects: Redirects = Redirects.FOLLOW
    max_redirects: int = 10
    robots: Robots = Robots.IGNORE


def question_of(
    args: RequestArgs, secrets: Secrets, *, method: str, body: bytes | None = None
) -> Question | Failure:
    """Return the request that arguments describe, its secrets filled in; or which of them is missing."""
    host = url_host(args.url)
    headers: dict[str, str] = {}
    for name, value in args.headers.items():
        filled = _fill(value, secrets, host)
        if isinstance(filled, Failure):
            return filled
        headers[name] = filled
    if args.auth is not None:
        credentials = _authorization(args.auth, secrets, host)
        if isinstance(credentials, Failure):
            return credentials
        headers["Authorization"] = credentials
    return Question(method, args.url, headers, body, args.redirects, args.max_redirects, args.robots)


def basic_authorization(username: str, password: str) -> str:
    """Return the value of `Authorization` (RFC 7617), with UTF-8, which is what servers of today expect."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def _authorization(auth: BasicAuth | BearerAuth, secrets: Secrets, host: str) -> str | Failure:
    match auth:
        case BasicAuth():
            password = _fill(auth.password, secrets, host)
            return password if isinstance(password, Failure) else basic_authorization(auth.username, password)
        case BearerAuth():
            token = _fill(auth.token, secrets, host)
            return token if isinstance(token, Failure) else f"Bearer {token}"


def _fill(value: str | Secret, secrets: Secrets, host: str) -> str | Failure:
    if isinstance(value, str):
        return value
    secret = secrets.read(value.secret, host=host)
    # A line feed in it would end the field; aiohttp refuses it, but not in words that name the secret.
    if secret is None or not secret.isprintable():
        return secret_missing(value.secret, host)
    return secret
