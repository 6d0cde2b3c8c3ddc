"""The `check` kind: is this URL good?"""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shared.kinds.requests import RequestArgs


class CheckMethod(StrEnum):
    """How to ask: `auto` is HEAD, then GET when HEAD is not answered with success."""

    AUTO = "auto"
    GET = "GET"
    HEAD = "HEAD"


class CheckArgs(RequestArgs):
    """What to check, and how patiently."""

    method: CheckMethod = CheckMethod.AUTO


class Verdict(StrEnum):
    """What a check came to, for a person.

    `ok` and `broken` are answers, so the job succeeds. `down` may pass, so the job is tried again and
    carries this verdict when it is parked.
    """

    OK = "ok"
    BROKEN = "broken"
    DOWN = "down"


class Hop(BaseModel):
    """One request and its answer on the way to the final URL."""

    model_config = ConfigDict(frozen=True)

    method: str = "GET"
    url: Annotated[str, Field(description="Without credentials.")]
    status: int
    seconds: Annotated[
        float, Field(description="Until the header of the answer was there, connecting included.")
    ]


class CheckResult(BaseModel):
    """What was seen."""

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
