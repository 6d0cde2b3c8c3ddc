"""The `fetch` kind: ask a page or an API, keep the body, pick out data with JMESPath."""

import base64
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.json_schema import SkipJsonSchema

from shared import exact_json
from shared.bodies import MAX_BODY_BYTES
from shared.few import few_items
from shared.kinds.acceptance import SUCCESS, MediaRange, Statuses
from shared.kinds.check import Hop
from shared.kinds.expressions import JmesPath
from shared.kinds.pages import PageResult, Pages, PageTask
from shared.kinds.requests import RequestArgs

DEFAULT_BODY_BYTES = 1_048_576
MAX_SENT_BYTES = 262_144
_MAX_RANGES = 20


class FetchMethod(StrEnum):
    """How to ask."""

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"
    OPTIONS = "OPTIONS"


TAKES_BODY = frozenset({FetchMethod.POST, FetchMethod.PUT, FetchMethod.PATCH})
"""The methods whose content means something to every server (RFC 9110 section 9.3)."""

NOT_IDEMPOTENT = frozenset({FetchMethod.POST, FetchMethod.PATCH})
"""The methods that do more when they are sent twice (RFC 9110 section 9.2.2)."""


class FetchArgs(RequestArgs):
    """What to fetch, how, how much of it, and what to pick out."""

    # `json` would hide a method of pydantic's, so the field has another name inside.
    model_config = ConfigDict(serialize_by_alias=True)

    method: FetchMethod = FetchMethod.GET
    body: Annotated[
        str | None,
        Field(max_length=MAX_SENT_BYTES, description="Text to send, with POST, PUT or PATCH."),
    ] = None
    json_body: Annotated[
        Any, Field(alias="json", description="A JSON document to send instead of `body`; null is none.")
    ] = None
    body_base64: Annotated[
        str | None,
        Field(max_length=MAX_SENT_BYTES * 4 // 3 + 4, description="Bytes to send instead of `body`."),
    ] = None
    accept: Annotated[
        tuple[MediaRange, ...],
        Field(max_length=_MAX_RANGES, description="Sent as `Accept`; an answer of another type is refused."),
        few_items(_MAX_RANGES),
    ] = ()
    statuses: Annotated[
        Statuses,
        Field(description="The statuses that are a success.", json_schema_extra={"default": list(SUCCESS)}),
    ] = Field(default_factory=SUCCESS.copy)
    extract: Annotated[JmesPath | None, Field(description="JMESPath on the JSON body.")] = None
    max_bytes: Annotated[int, Field(ge=1, le=MAX_BODY_BYTES, description="Limit of the expanded body.")] = (
        DEFAULT_BODY_BYTES
    )
    if_changed: Annotated[
        bool,
        Field(description="Ask only for what has changed since the last fetch with the same arguments."),
    ] = False

    pages: Annotated[
        Pages | None, Field(description="The URL is the first of many pages: fetch all of them.")
    ] = None
    # Written by the recorder, for the jobs that it makes of further pages.
    page: SkipJsonSchema[PageTask | None] = None

    @field_validator("body", "json_body", "body_base64")
    @classmethod
    def _can_be_sent(cls, part: Any, info: ValidationInfo) -> Any:
        if part is None:
            return None
        if info.data.get("method", FetchMethod.POST) not in TAKES_BODY:
            raise ValueError(f"{info.data['method']} takes no body; POST, PUT and PATCH do")
        if any(info.data.get(name) is not None for name in _CONTENT):
            raise ValueError("send one of body, json and body_base64")
        _content(str(info.field_name), part)
        return part

    @field_validator("accept")
    @classmethod
    def _is_said_once(cls, accept: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if accept and "accept" in _header_names(info):
            raise ValueError("send either accept or a header Accept")
        return accept

    @field_validator("extract")
    @classmethod
    def _has_a_body(cls, extract: str | None, info: ValidationInfo) -> str | None:
        if extract is not None and info.data.get("method") is FetchMethod.HEAD:
            raise ValueError("the answer to HEAD has no body to extract from")
        return extract

    @field_validator("if_changed")
    @classmethod
    def _can_be_conditional(cls, if_changed: bool, info: ValidationInfo) -> bool:
        if if_changed and info.data.get("method", FetchMethod.GET) is not FetchMethod.GET:
            raise ValueError("only a GET can be asked for changes")
        if if_changed and _header_names(info) & {"if-none-match", "if-modified-since"}:
            raise ValueError("it writes If-None-Match and If-Modified-Since itself")
        return if_changed

    @field_validator("pages")
    @classmethod
    def _picks_its_items(cls, pages: Pages | None, info: ValidationInfo) -> Pages | None:
        if pages is not None and info.data.get("extract") is not None:
            raise ValueError("its `items` picks out what is kept; leave out `extract`")
        if pages is not None and info.data.get("if_changed"):
            raise ValueError("pages are always fetched whole; leave out `if_changed`")
        if pages is not None and info.data.get("method") is FetchMethod.HEAD:
            raise ValueError("the answer to HEAD has no items")
        return pages

    def content(self) -> tuple[bytes, str] | None:
        """Return what is sent and its media type, or None."""
        for name, media_type in _CONTENT.items():
            if (part := getattr(self, name)) is not None:
                return _content(name, part), media_type
        return None


_CONTENT = {
    "body": "text/plain; charset=utf-8",
    "json_body": "application/json",
    "body_base64": "application/octet-stream",
}


def _content(name: str, part: Any) -> bytes:
    """Return the octets of a part of the arguments.

    Raises:
        ValueError: it is no text, no JSON or no base64, or too large.
    """
    try:
        match name:
            case "body":
                content = str(part).encode()
            case "json_body":
                content = exact_json.dumps(part)
            case _:
                content = base64.b64decode(part, validate=True)
    except (TypeError, ValueError):
        # The error itself would quote what was sent.
        raise ValueError(_UNREADABLE[name]) from None
    if len(content) > MAX_SENT_BYTES:
        raise ValueError(f"larger than {MAX_SENT_BYTES:,} bytes")
    return content


_UNREADABLE = {
    "body": "a lone surrogate is no text",
    "json_body": "a number is too large, a text is none, or values are nested too deeply",
    "body_base64": "not base64 (RFC 4648 section 4)",
}


def _header_names(info: ValidationInfo) -> set[str]:
    return {name.lower() for name in info.data.get("headers", ())}


class FetchResult(BaseModel):
    """What came back. With `extract` the data is kept instead of the body."""

    model_config = ConfigDict(frozen=True)

    status: int
    final_url: str
    hops: list[Hop]
    total_seconds: float
    content_type: str | None = None
    charset: Annotated[str | None, Field(description="What the body was decoded with, when it is text.")] = (
        None
    )
    has_replacements: Annotated[
        bool, Field(description="Whether `data` has U+FFFD for bytes of the JSON that are not UTF-8.")
    ] = False
    body_bytes: Annotated[int, Field(description="Size of the expanded body.")] = 0
    sha256: Annotated[str | None, Field(description="SHA-256 of the expanded body.")] = None
    body: Annotated[str | None, Field(description="The body as text, when it is text and small.")] = None
    body_base64: Annotated[str | None, Field(description="The body, when it is small and not text.")] = None
    body_stored: Annotated[
        bool, Field(description="The body is too large for a result: `GET /jobs/{job_id}/body`.")
    ] = False
    data: Annotated[Any, Field(description="What `extract` picked out; of a page, its items.")] = None
    page: Annotated[PageResult | None, Field(description="Only with `pages`: which page this is.")] = None
    etag: Annotated[str | None, Field(description="The target's name for this version of the body.")] = None
    last_modified: str | None = None
    not_modified: Annotated[bool, Field(description="With `if_changed`: nothing has changed.")] = False
    unchanged_since: Annotated[
        UUID | None, Field(description="The job that has the body (or data) which has not changed.")
    ] = None
