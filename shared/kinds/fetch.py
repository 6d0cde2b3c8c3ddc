"""The `fetch` kind: GET a page or an API, keep the body, pick out data with JMESPath."""

from typing import Annotated, Any

import jmespath
from jmespath.exceptions import JMESPathError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from shared.kinds.check import Hop
from shared.kinds.requests import RequestArgs

MAX_BODY_BYTES = 1_048_576
MAX_EXPRESSION_LENGTH = 1_000


def _check_expression(expression: str) -> str:
    try:
        jmespath.compile(expression)
    except (JMESPathError, RecursionError) as error:
        # Where and not what: the library's own message repeats the expression.
        at = getattr(error, "lex_position", None)
        place = "" if at is None else f", from character {at + 1} on"
        raise ValueError(f"not a JMESPath expression{place}") from error
    return expression


JmesPath = Annotated[
    str,
    Field(min_length=1, max_length=MAX_EXPRESSION_LENGTH),
    AfterValidator(_check_expression),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_EXPRESSION_LENGTH}),
]


class FetchArgs(RequestArgs):
    """What to fetch, how much of it, and what to pick out."""

    extract: Annotated[JmesPath | None, Field(description="JMESPath on the JSON body.")] = None
    max_bytes: Annotated[int, Field(ge=1, le=MAX_BODY_BYTES, description="Limit of the expanded body.")] = (
        MAX_BODY_BYTES
    )


class FetchResult(BaseModel):
    """What came back. With `extract` the data is kept instead of the body."""

    model_config = ConfigDict(frozen=True)

    status: int
    final_url: str
    hops: list[Hop]
    total_seconds: float
    content_type: str | None = None
    body_bytes: Annotated[int, Field(description="Size of the expanded body.")] = 0
    body: Annotated[str | None, Field(description="The body as text, when it is text.")] = None
    body_base64: Annotated[str | None, Field(description="The body, when it is not text.")] = None
    data: Annotated[Any, Field(description="What `extract` picked out.")] = None
