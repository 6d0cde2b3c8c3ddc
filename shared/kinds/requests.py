"""What a job may say about a request: URL, headers, credentials, redirects. All kinds share it."""

import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.few import few_names
from shared.urls import HttpUrl

MAX_HEADERS = 50
MAX_HEADER_VALUE_LENGTH = 4_096
# Each travels with the job.
MAX_SECRETS_NAMED = 10

FieldName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$")]
"""Any field that an answer may have (RFC 9110 section 5.1)."""

SECRET_NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,99}$"  # noqa: S105
SecretName = Annotated[str, Field(pattern=SECRET_NAME_PATTERN)]


class Redirects(StrEnum):
    """What to do with a redirect: `follow` it, `report` it as the answer, or `refuse` it as a failure."""

    FOLLOW = "follow"
    REPORT = "report"
    REFUSE = "refuse"


class Robots(StrEnum):
    """What to do with a host's robots.txt (RFC 9309): `respect` it, or `ignore` it."""

    RESPECT = "respect"
    IGNORE = "ignore"


class Secret(BaseModel):
    """A value that the job does not say: a secret of its project that has this name, or else a file.

    Workers send it to the origins that it is for alone; a file is in the folder of its origin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    secret: SecretName


class BasicAuth(BaseModel):
    """A user name and a password (RFC 7617)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["basic"]
    username: Annotated[str, Field(max_length=200, pattern=r"^[^:\x00-\x1f\x7f]*$")]
    password: Secret


class BearerAuth(BaseModel):
    """A token (RFC 6750)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["bearer"]
    token: Secret


Auth = Annotated[BasicAuth | BearerAuth, Field(discriminator="type")]

# RFC 9110 section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
# RFC 9110 section 5.5, in ASCII only: no two servers read other characters alike.
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")
# They frame the message, concern the connection, or are written by us: a second one could smuggle a request.
_OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def _check_header_name(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError("not a field name (RFC 9110 section 5.1)")
    lowered = name.lower()
    if lowered in _OURS or lowered.startswith(("proxy-", "sec-")):
        raise ValueError(f"{name} is written by the worker and cannot be set")
    if lowered == "authorization":
        raise ValueError("credentials belong in `auth`, as the name of a secret")
    return name


def _check_header_value(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise ValueError("not a field value: printable ASCII, no line feeds, no blanks around it")
    return value


HeaderName = Annotated[str, AfterValidator(_check_header_name)]
HeaderValue = Annotated[str, Field(max_length=MAX_HEADER_VALUE_LENGTH), AfterValidator(_check_header_value)]


def _check_unique(headers: dict[str, str | Secret]) -> dict[str, str | Secret]:
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("a field is named twice; names are the same in any case")
    if sum(isinstance(value, Secret) for value in headers.values()) > MAX_SECRETS_NAMED:
        raise ValueError(f"at most {MAX_SECRETS_NAMED} values may be secrets")
    return headers


Headers = Annotated[
    dict[HeaderName, HeaderValue | Secret],
    Field(max_length=MAX_HEADERS),
    AfterValidator(_check_unique),
    few_names(MAX_HEADERS),
]


class RequestArgs(BaseModel):
    """The arguments of every kind that sends requests to a host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: HttpUrl
    headers: Annotated[
        Headers,
        # A factory, because pydantic copies a default dictionary deeply, for each job.
        Field(
            description="Sent to the URL's own origin alone, but for `Accept` and the like; a value may be "
            "the name of a secret.",
            json_schema_extra={"default": {}},
        ),
    ] = Field(default_factory=dict)
    auth: Annotated[
        Auth | None, Field(description="Sent to the URL's own origin alone; the secret stays in the workers.")
    ] = None
    redirects: Redirects = Redirects.FOLLOW
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 10
    robots: Annotated[
        Robots, Field(description="`respect` asks each host's robots.txt first, for every redirect too.")
    ] = Robots.IGNORE
    timeout_seconds: Annotated[float, Field(ge=0.1, le=300, description="Limit of one attempt.")] = 30.0
    connect_timeout_seconds: Annotated[
        float | None,
        Field(ge=0.1, le=300, description="Limit for name, connection and TLS of each request."),
    ] = None
    first_byte_timeout_seconds: Annotated[
        float | None,
        Field(ge=0.1, le=300, description="Limit from there to the header of each answer."),
    ] = None
