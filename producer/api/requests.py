"""What an operation reads from its request; what is wrong becomes a problem that names the place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from http import HTTPStatus
from typing import Final, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from producer.api.problems import HttpProblem
from producer.callers import Caller
from producer.json_text import read_json
from producer.submission import check_names, field_errors
from shared.errors import (
    BatchNotFound,
    FieldError,
    JobInvalid,
    JobNotFound,
    KeyNotFound,
    OperationNotFound,
    ScheduleNotFound,
    SecretNotFound,
)
from shared.times import parse_time

# From this size on a body is parsed off the event loop: 64 KiB of JSON cost about half a millisecond.
LARGE_BODY_BYTES: Final = 65_536

_DEFAULT_LIMIT = 100
_CANONICAL_ID_LENGTH = 36

CALLER: Final = "retriever.caller"
"""Where the ASGI scope of a request has its `Caller`."""
_ACTOR_HEADER = "Retriever-Actor"
_KEY_HEADER = "Idempotency-Key"
_MAX_KEY_LENGTH = 255

Model = TypeVar("Model", bound=BaseModel)
NotFound = JobNotFound | BatchNotFound | ScheduleNotFound | OperationNotFound | KeyNotFound | SecretNotFound


class Query:
    """The query of a request, typed. `Parameters` has already checked it against the contract."""

    def __init__(self, request: Request) -> None:
        self._params = request.query_params

    @property
    def limit(self) -> int:
        """How many items a page has at most."""
        return int(self._params.get("limit", _DEFAULT_LIMIT))

    @property
    def labels(self) -> list[tuple[str, str]]:
        """The names and values of labels, written as `name:value`; the contract requires the colon."""
        split = (label.partition(":") for label in self._params.getlist("label"))
        return [(name, value) for name, _, value in split]

    def text(self, name: str) -> str | None:
        """Return a parameter as it was sent, or None without it."""
        return self._params.get(name)

    def texts(self, name: str) -> list[str]:
        """Return the values of a parameter that may be repeated."""
        return self._params.getlist(name)

    def number(self, name: str) -> int:
        """Return a whole number; 0 without it."""
        return int(self._params.get(name, 0))

    def flag(self, name: str) -> bool:
        """Return whether a boolean parameter is true; false without it."""
        return self._params.get(name) == "true"

    def id(self, name: str, *, formerly: str | None = None) -> UUID | None:
        """Return the id in a parameter, or None without it.

        Args:
            name: Of the parameter.
            formerly: The name that it had in an earlier version, which is taken too.

        Raises:
            HttpProblem: 400: both names were sent.
        """
        text = self._params.get(name)
        if formerly is not None and (earlier := self._params.get(formerly)):
            if text:
                raise _invalid(f"/query/{formerly}", f"It is the former name of {name}; send {name} alone")
            text = earlier
        return UUID(text) if text else None

    def host(self) -> str | None:
        """Return the host to look for, in lower case as it is stored."""
        text = self._params.get("host")
        return text.lower() if text else None

    def time(self, name: str) -> datetime | None:
        """Return the time in a parameter, or None without it."""
        text = self._params.get(name)
        return parse_time(text) if text else None


def read_id(request: Request, name: str, not_found: type[NotFound]) -> UUID:
    """Return the id in the path of a request.

    Raises:
        NotFound: it is not a UUID, so nothing has it.
    """
    text = request.path_params[name]
    try:
        found = UUID(text)
    except ValueError:
        found = None
    # UUID() also reads braces, URNs, digits of other scripts and hyphens anywhere; no id of ours is such.
    if found is not None and str(found) == text.lower():
        return found
    raise not_found(text[:_CANONICAL_ID_LENGTH])


def read_document(model: type[Model], body: bytes) -> Model:
    """Return the document in a JSON body, read strictly: the text "5" is no number.

    Raises:
        JobInvalid: it is not JSON (RFC 8259), as `read_json` says, or breaks the model; every field is named.
    """
    try:
        # pydantic's own parser lets NaN and Infinity pass, which no JSON column takes.
        value = read_json(body)
    except orjson.JSONDecodeError as error:
        raise JobInvalid([FieldError("", f"The body is not JSON: {error}")]) from None
    check_names(value)
    return validate_document(model, body)


def validate_document(model: type[Model], body: bytes) -> Model:
    """Return the document in a body that is known to be JSON.

    Raises:
        JobInvalid: it breaks the model; every field is named.
    """
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise JobInvalid(field_errors(error, model)) from None


def read_header(request: Request, name: str) -> str | None:
    """Return a header that has one value, or None without it.

    Raises:
        HttpProblem: 400: it was sent more than once, so nobody can tell which value is meant.
    """
    match request.headers.getlist(name):
        case []:
            return None
        case [value]:
            return value
        case _:
            raise _invalid(f"/header/{name}", "It must be sent once")


def read_idempotency_key(request: Request) -> str | None:
    """Return the Idempotency-Key of a request, or None when it has none.

    After the IETF draft "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key-header).

    Raises:
        HttpProblem: 400: the key is empty, too long, not printable ASCII, or sent more than once.
    """
    key = read_header(request, _KEY_HEADER)
    if key is None:
        return None
    if not 0 < len(key) <= _MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise _invalid(
            f"/header/{_KEY_HEADER}", f"It must be 1 to {_MAX_KEY_LENGTH} printable ASCII characters"
        )
    return key


def read_caller(request: Request) -> Caller:
    """Return who sends a request, as it was found out before the request got in."""
    caller: Caller = request.scope[CALLER]
    return caller


def check_operator(request: Request, detail: str) -> None:
    """Do nothing if an operator sends a request, who is of no project.

    Args:
        detail: Why others may not do it.

    Raises:
        HttpProblem: 403: somebody else sends it.
    """
    if read_caller(request).project is not None:
        raise HttpProblem(HTTPStatus.FORBIDDEN, detail)


def check_own_project(caller: Caller, project: str | None, what: str) -> None:
    """Do nothing if a caller may make something in a project; None is their own.

    Args:
        what: They make, in the plural.

    Raises:
        HttpProblem: 403: they would make it for another project.
    """
    if caller.project is not None and project not in {None, caller.project}:
        detail = f"/project: {caller.actor} makes {what} of the project {caller.project} alone."
        raise HttpProblem(HTTPStatus.FORBIDDEN, detail)


def read_actor(request: Request) -> str:
    """Return who sends a request, for the audit log, with the note that they may send along.

    Raises:
        HttpProblem: 400: it was sent more than once.
    """
    actor, note = read_caller(request).actor, read_header(request, _ACTOR_HEADER)
    return f"{actor} ({note})" if note else actor


@asynccontextmanager
async def departure(request: Request) -> AsyncIterator["asyncio.Future[None]"]:
    """Yield what is done when the client has closed its connection; its body must have been read."""

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            # What else it sends belongs to the next request.
            pass

    leaving = asyncio.ensure_future(leave())
    try:
        yield leaving
    finally:
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)


def _invalid(loc: str, msg: str) -> HttpProblem:
    return HttpProblem(HTTPStatus.BAD_REQUEST, f"{loc}: {msg}.", errors=[FieldError(loc, msg)])
