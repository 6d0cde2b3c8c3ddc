"""The `fetch` kind: GET a page or an API, keep the body, pick out data with JMESPath."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from shared.kinds.check import Hop
from shared.kinds.expressions import JmesPath
from shared.kinds.pages import PageResult, Pages, PageTask
from shared.kinds.requests import RequestArgs

MAX_BODY_BYTES = 1_048_576


class FetchArgs(RequestArgs):
    """What to fetch, how much of it, and what to pick out."""

    extract: Annotated[JmesPath | None, Field(description="JMESPath on the JSON body.")] = None
    max_bytes: Annotated[int, Field(ge=1, le=MAX_BODY_BYTES, description="Limit of the expanded body.")] = (
        MAX_BODY_BYTES
    )
    pages: Annotated[
        Pages | None, Field(description="The URL is the first of many pages: fetch all of them.")
    ] = None
    # Written by the recorder, for the jobs that it makes of further pages.
    page: SkipJsonSchema[PageTask | None] = None

    @model_validator(mode="after")
    def _pages_pick_their_items(self) -> Self:
        if self.pages is not None and self.extract is not None:
            raise ValueError("with `pages`, `items` picks out what is kept; leave out `extract`")
        return self


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
    data: Annotated[Any, Field(description="What `extract` picked out; of a page, its items.")] = None
    page: Annotated[PageResult | None, Field(description="Only with `pages`: which page this is.")] = None
