"""The `check` kind: is this URL good?"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shared import exact_json
from shared.kinds.acceptance import SUCCESS, Statuses
from shared.kinds.expressions import MAX_PROGRAM_SIZE, JmesPath, Pattern, program_size
from shared.kinds.requests import FieldName, RequestArgs

DEFAULT_BODY_BYTES = 1_048_576
MAX_BODY_BYTES = 4_194_304
MAX_OF_A_KIND = 10
MAX_TEXT_LENGTH = 1_000
MAX_FRAGMENTS = 500
MAX_FRAGMENT_LENGTH = 2_000
MAX_FRAGMENTS_LENGTH = 50_000

Fragment = Annotated[str, Field(max_length=MAX_FRAGMENT_LENGTH)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LENGTH)]


class CheckMethod(StrEnum):
    """How to ask: `auto` sends HEAD, then GET when HEAD is not answered with success."""

    AUTO = "auto"
    GET = "GET"
    HEAD = "HEAD"


class JsonAssertion(BaseModel):
    """What a JMESPath expression must pick out of the JSON body."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: JmesPath
    equals: Annotated[
        Any,
        Field(
            description="What it must be. Null or left out: what JMESPath takes for true, so not null, false "
            "or empty. To demand null, say so in the expression: `error == null`."
        ),
    ] = None

    @field_validator("equals")
    @classmethod
    def _is_json_and_small(cls, equals: Any) -> Any:
        try:
            written = exact_json.dumps(equals)
        except (TypeError, ValueError):
            raise ValueError("a number is too large, or values are nested too deeply") from None
        if len(written) > MAX_TEXT_LENGTH:
            raise ValueError(f"longer than {MAX_TEXT_LENGTH:,} bytes of JSON")
        return equals


class HeaderAssertion(BaseModel):
    """What a header of the final answer must be. With its name alone: it must be there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FieldName
    equals: Annotated[str | None, Field(max_length=MAX_TEXT_LENGTH)] = None
    regex: Annotated[Pattern | None, Field(description="RE2; it must be found somewhere in the value.")] = (
        None
    )


class Assertions(BaseModel):
    """All must hold. Those on the body make `auto` ask with GET."""

    # `json` would hide a method of pydantic's, so the field has another name inside.
    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    contains: Annotated[
        list[Text], Field(max_length=MAX_OF_A_KIND, description="Texts that the body must contain.")
    ] = []  # pydantic copies it, and those below
    not_contains: Annotated[
        list[Text], Field(max_length=MAX_OF_A_KIND, description="Texts that the body must not contain.")
    ] = []
    regex: Annotated[
        list[Pattern], Field(max_length=MAX_OF_A_KIND, description="RE2; found somewhere in the body.")
    ] = []
    json_body: Annotated[
        list[JsonAssertion], Field(alias="json", max_length=MAX_OF_A_KIND, description="On the body as JSON.")
    ] = []
    header: Annotated[list[HeaderAssertion], Field(max_length=MAX_OF_A_KIND)] = []
    max_latency_seconds: Annotated[
        float | None,
        Field(
            gt=0,
            le=300,
            description="Until the header of the answer is there, redirects included.",
        ),
    ] = None
    min_certificate_days: Annotated[
        float | None, Field(ge=0, le=36_500, description="How long the certificate must still be valid.")
    ] = None
    fragment: Annotated[
        bool,
        Field(
            description="The fragment of the final URL must be an id in the page, or the name of an `a`. "
            "It holds if there is none; what is not HTML is not judged."
        ),
    ] = False

    @model_validator(mode="after")
    def _are_quick(self) -> Self:
        patterns = [*self.regex, *(header.regex for header in self.header if header.regex)]
        if program_size(patterns) > MAX_PROGRAM_SIZE:
            raise ValueError("the regular expressions together are too large")
        return self

    @property
    def on_body(self) -> bool:
        """Whether the body may have to be read."""
        return self.on_text or self.fragment

    @property
    def on_text(self) -> bool:
        """Whether the body must be read, whatever it is."""
        return bool(self.contains or self.not_contains or self.regex or self.json_body)


class CheckArgs(RequestArgs):
    """What to check, what to demand of the answer, and how long to wait for it."""

    method: CheckMethod = CheckMethod.AUTO
    statuses: Annotated[
        Statuses,
        Field(
            description="Statuses that are good. With `redirects: report`, a redirect is good by default.",
            json_schema_extra={"default": list(SUCCESS)},
        ),
    ] = Field(default_factory=SUCCESS.copy)
    assertions: Annotated[Assertions | None, Field(description="What else must hold.")] = None
    title: Annotated[bool, Field(description="Read the page's title. Makes `auto` ask with GET.")] = False
    fragments: Annotated[
        list[Fragment],
        Field(
            max_length=MAX_FRAGMENTS,
            description="Fragments, without `#`, to look for in the page as `assertions.fragment` looks for "
            "that of the URL. The result has `fragments`; the verdict does not depend on them. Makes `auto` "
            f"ask with GET. Together at most {MAX_FRAGMENTS_LENGTH:,} characters.",
        ),
    ] = Field(default_factory=list)
    max_body_bytes: Annotated[
        int, Field(ge=1, le=MAX_BODY_BYTES, description="How much of the expanded body is read, if it is.")
    ] = DEFAULT_BODY_BYTES
    allow_downgrade: Annotated[bool, Field(description="Whether a redirect may lead from https to http.")] = (
        True
    )

    @property
    def needs_body(self) -> bool:
        """Whether the body must be read."""
        return bool(self.title or self.fragments or (self.assertions is not None and self.assertions.on_body))

    @field_validator("fragments")
    @classmethod
    def _are_small(cls, fragments: list[str]) -> list[str]:
        if sum(map(len, fragments)) > MAX_FRAGMENTS_LENGTH:
            raise ValueError(f"together longer than {MAX_FRAGMENTS_LENGTH:,} characters")
        return fragments

    @model_validator(mode="after")
    def _has_a_body(self) -> Self:
        if self.method is CheckMethod.HEAD and self.needs_body:
            raise ValueError("the answer to HEAD has no body to read; use method auto or GET")
        return self


class Verdict(StrEnum):
    """What a check came to, for a person.

    `ok`, `broken` and `blocked` are answers, so the job succeeds. `down` may pass, so the job is tried
    again and carries this verdict when it is parked. docs/checks.md has the whole table.
    """

    OK = "ok"
    BROKEN = "broken"
    BLOCKED = "blocked"
    DOWN = "down"


class Family(StrEnum):
    """The family of an IP address."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


class Timings(BaseModel):
    """How long each phase of one request took. Null: it did not happen, or did not finish."""

    model_config = ConfigDict(frozen=True)

    dns_seconds: Annotated[
        float | None,
        Field(description="Null for an address instead of a name, and on a kept connection."),
    ] = None
    connect_seconds: Annotated[float | None, Field(description="TCP alone.")] = None
    tls_seconds: float | None = None
    first_byte_seconds: Annotated[
        float | None, Field(description="From the connection to the header of the answer.")
    ] = None
    total_seconds: Annotated[
        float, Field(description="The whole request; with the body, if that was read.")
    ] = 0.0


class Hop(BaseModel):
    """One request and its answer on the way to the final URL."""

    model_config = ConfigDict(frozen=True)

    method: str = "GET"
    url: Annotated[str, Field(description="Without credentials.")]
    status: int
    seconds: Annotated[
        float, Field(description="Until the header of the answer was there, connecting included.")
    ]
    ip: Annotated[str | None, Field(description="The address that answered.")] = None
    family: Family | None = None
    location: Annotated[
        str | None, Field(description="Where a redirect leads, absolute and without credentials.")
    ] = None
    timings: Timings = Timings()


class TimingsJson(TypedDict):
    """`Timings` as a worker writes them, thousands a second and so without a model in between."""

    dns_seconds: float | None
    connect_seconds: float | None
    tls_seconds: float | None
    first_byte_seconds: float | None
    total_seconds: float


class HopJson(TypedDict):
    """`Hop` as a worker writes it."""

    method: str
    url: str
    status: int
    seconds: float
    ip: str | None
    family: str | None
    location: str | None
    timings: TimingsJson


class Certificate(BaseModel):
    """The certificate of the host that was requested last, a bad one too."""

    model_config = ConfigDict(frozen=True)

    subject: Annotated[str, Field(description="As RFC 4514 writes it.")] = ""
    issuer: str = ""
    not_before: str | None = None
    not_after: str | None = None
    days_left: Annotated[float | None, Field(description="Below 0 when it has expired.")] = None
    names: Annotated[list[str], Field(description="What it is for: host names and addresses.")] = Field(
        default_factory=list
    )
    protocol: Annotated[str | None, Field(description="Such as `TLSv1.3`.")] = None
    trusted: Annotated[bool, Field(description="Whether it was verified for this host.")] = True


class AssertionResult(BaseModel):
    """One assertion, and whether it held."""

    model_config = ConfigDict(frozen=True)

    assertion: Annotated[str, Field(description="Its name in the arguments, such as `contains`.")]
    expected: Annotated[str, Field(description="What the job demands, shortened.")]
    passed: Annotated[
        bool | None, Field(description="Null: it was not judged; `explanation` says why. That is no failure.")
    ]
    observed: Annotated[str | None, Field(description="What was there, at most 100 characters.")] = None
    explanation: Annotated[str | None, Field(description="Why it was not judged.")] = None


ASSERTION_FAILED = "assertion_failed"


def success_words(results: Iterable[AssertionResult]) -> str:
    """Return the explanation of the verdict `ok`; it says which assertions could not be judged."""
    undecided = (each for each in results if each.passed is None)
    more = (
        f" Whether {each.assertion} {each.expected} holds was not judged: {each.explanation}."
        for each in undecided
    )
    return "".join(["The host answered as it should.", *more])


def unmet_words(assertion: str, expected: str, *, others: int) -> str:
    """Return the sentence on the first assertion that does not hold, and how many `others` do not."""
    more = f", nor do {others} more" if others else ""
    return f"{f'An assertion does not hold: {assertion} {expected}'.rstrip()}{more}."


class CheckResult(BaseModel):
    """What a check found."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    reason: Annotated[str, Field(description="A stable code such as `ok`, `http_404` or `timeout`.")]
    explanation: Annotated[str, Field(description="The reason as a sentence for a person.")] = ""
    status: Annotated[
        int | None, Field(description="Status of the last answer; null when there was none.")
    ] = None
    final_url: Annotated[str, Field(description="The URL that was asked last.")]
    hops: Annotated[list[Hop], Field(description="Every answer in order; with `auto` those to HEAD first.")]
    total_seconds: float
    ip: Annotated[str | None, Field(description="The address that the last request went to.")] = None
    family: Family | None = None
    timings: Annotated[Timings, Field(description="The timings of the last request.")] = Timings()
    redirects_to_http: Annotated[bool, Field(description="A redirect led from https to http.")] = False
    certificate: Certificate | None = None
    content_type: str | None = None
    bytes: Annotated[
        int | None,
        Field(description="Size of the expanded body, if all of it was read; else as the host declared it."),
    ] = None
    title: Annotated[str | None, Field(description="Title of the page, when one was read.")] = None
    fragments: Annotated[
        dict[str, AssertionResult] | None,
        Field(
            description="What `assertions.fragment` would say of each of the job's `fragments`. Null without "
            "an accepted answer, and when the job asks for none."
        ),
    ] = None
    # A factory, because pydantic copies a default list deeply, in Python.
    assertions: Annotated[list[AssertionResult], Field(description="All of them, in the job's order.")] = (
        Field(default_factory=list)
    )
