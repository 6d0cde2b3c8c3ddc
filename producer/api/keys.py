"""The operations on API keys: make, look up, list, rotate, revoke."""

import logging
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import NEXT, Document
from producer.api.key_ring import KeyRing
from producer.api.rate_limits import RateLimits
from producer.api.requests import Query, check_own_project, read_actor, read_caller, read_document, read_id
from producer.api.responses import json_response
from producer.callers import PROJECT_PATTERN, Caller, Scope
from producer.keys import (
    DEFAULT_OVERLAP,
    KEY_NAME_PATTERN,
    MAX_OVERLAP,
    MAX_RATE_PER_SECOND,
    PREFIX,
    ApiKey,
    KeyState,
    NewKey,
    new_text,
    secret_of,
)
from producer.store import keys
from producer.store.database import Connection, Store
from shared.clock import utc_now
from shared.errors import FieldError, JobInvalid, KeyNotFound

logger = logging.getLogger(__name__)

PATH = "/keys"
# The text of a key is in the answer, and nobody on the way keeps it.
_NOT_KEPT = {"Cache-Control": "no-store"}
_MAX_SECONDS = 10 * 365 * 86_400


class KeyRequest(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[
        str,
        Field(
            pattern=KEY_NAME_PATTERN,
            description="The audit log calls it `key:` and this. No other key has, or had, the same.",
        ),
    ]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=20, description="None that you lack.")]
    project: Annotated[
        str | None,
        Field(
            pattern=PROJECT_PATTERN,
            description="What it sees: your project. An operator names any, or none for an operator's key.",
        ),
    ] = None
    expires_in_seconds: Annotated[
        int | None, Field(ge=60, le=_MAX_SECONDS, description="Null: it lives until it is revoked.")
    ] = None
    rate_per_second: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_RATE_PER_SECOND,
            description="Requests a second. Null: as many as your key. Only operators give more.",
        ),
    ] = None


class RotationRequest(BaseModel):
    """How a key is rotated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    overlap_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=int(MAX_OVERLAP.total_seconds()),
            description="How long the text before opens the same; 0 ends it at once.",
        ),
    ] = int(DEFAULT_OVERLAP.total_seconds())


class KeyDocument(Document):
    """A key, without its text."""

    id: UUID
    name: str
    project: Annotated[str | None, Field(description="Null is an operator's, which sees all projects.")]
    scopes: list[Scope]
    state: KeyState
    starts: Annotated[
        list[str],
        Field(description="What its live texts begin with, the newest first: two while it is rotated."),
    ]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: Annotated[datetime | None, Field(description="To about a minute.")]
    rate_per_second: Annotated[
        int | None,
        Field(description="How many requests it may send. Null: RETRIEVER_KEY_RATE_PER_SECOND."),
    ]


class NewKeyDocument(KeyDocument):
    """A key with its new text."""

    key: Annotated[str, Field(description="Send it as `Authorization: Bearer`. It is never shown again.")]


class KeyPage(Document):
    """One page of keys, newest first."""

    items: list[KeyDocument]
    next: Annotated[str | None, Field(description=NEXT)]


class KeyHandlers:
    """Makes keys, shows them without their text, and ends them."""

    def __init__(self, store: Store, ring: KeyRing, limits: RateLimits) -> None:
        self._store = store
        self._ring = ring
        self._limits = limits

    async def create_key(self, request: Request) -> Response:
        """Make a key and answer 201 with it and its text."""
        asked, caller = read_document(KeyRequest, await request.body()), read_caller(request)
        _check_allowed(asked, caller, rate=self._limits.rate_of(caller))
        text = new_text()
        seconds = asked.expires_in_seconds
        lives = None if seconds is None else timedelta(seconds=seconds)
        new = NewKey(
            asked.name,
            frozenset(asked.scopes),
            asked.project or caller.project,
            lives,
            asked.rate_per_second or caller.rate_per_second,
        )
        key = await self._store.write(_create, new, text, by=read_actor(request))
        await self._ring.refresh()
        logger.info("key_created", extra=_facts(key))
        headers = {"Location": f"{PATH}/{key.id}", **_NOT_KEPT}
        return json_response(_document(key, text), HTTPStatus.CREATED, headers)

    async def list_keys(self, request: Request) -> Response:
        """Answer with one page of keys, newest first."""
        query = Query(request)
        found = await self._store.read(
            keys.list_keys, project=read_caller(request).project, limit=query.limit, after=query.id("cursor")
        )
        following = None if found.following is None else str(found.following)
        return json_response(KeyPage(items=[_document(key) for key in found.records], next=following))

    async def get_key(self, request: Request) -> Response:
        """Answer with a key."""
        project = read_caller(request).project
        return json_response(_document(await self._store.read(keys.get_key, _id(request), project=project)))

    async def rotate_key(self, request: Request) -> Response:
        """Give a key a new text and answer with it; the one before lives on for a while."""
        body = await request.body()
        asked = read_document(RotationRequest, body) if body else RotationRequest()
        text = new_text()
        key = await self._store.write(
            _rotate,
            _id(request),
            text,
            project=read_caller(request).project,
            overlap=timedelta(seconds=asked.overlap_seconds),
            by=read_actor(request),
        )
        await self._ring.refresh()
        logger.info("key_rotated", extra=_facts(key))
        return json_response(_document(key, text), headers=_NOT_KEPT)

    async def revoke_key(self, request: Request) -> Response:
        """End a key for good."""
        key = await self._store.write(
            keys.revoke_key,
            _id(request),
            project=read_caller(request).project,
            by=read_actor(request),
            now=utc_now(),
        )
        await self._ring.refresh()
        logger.info("key_revoked", extra=_facts(key))
        return json_response(_document(key))


def _check_allowed(asked: KeyRequest, caller: Caller, *, rate: int) -> None:
    """Do nothing if a caller may make a key: nobody makes one that opens more than their own.

    Raises:
        JobInvalid: it would have a scope that they lack, or more requests a second than their `rate`.
        HttpProblem: 403: it would see another project.
    """
    errors = [
        FieldError(f"/scopes/{place}", f"Your own key does not have {scope}")
        for place, scope in enumerate(asked.scopes)
        if scope not in caller.scopes
    ]
    if caller.project is not None and 0 < rate < (asked.rate_per_second or 0):
        errors.append(FieldError("/rate_per_second", f"Your own key may send {rate:,} requests a second"))
    if errors:
        raise JobInvalid(errors)
    check_own_project(caller, asked.project, "keys")


def _create(connection: Connection, new: NewKey, text: str, *, by: str) -> ApiKey:
    secret = secret_of(text, keys.keep_hash_key(connection))
    key = new.stored(secret, by=by, now=utc_now())
    keys.insert_key(connection, key)
    return key


def _rotate(
    connection: Connection, key_id: UUID, text: str, *, project: str | None, overlap: timedelta, by: str
) -> ApiKey:
    new = secret_of(text, keys.keep_hash_key(connection))
    return keys.rotate_key(connection, key_id, new, project=project, overlap=overlap, by=by, now=utc_now())


def _document(key: ApiKey, text: str | None = None) -> KeyDocument:
    now = utc_now()
    computed = {
        "scopes": sorted(key.scopes),
        "state": key.state(now),
        "starts": [f"{PREFIX}{secret.start}" for secret in key.live_secrets(now)],
    }
    return KeyDocument.of(key, **computed) if text is None else NewKeyDocument.of(key, **computed, key=text)


def _id(request: Request) -> UUID:
    return read_id(request, "key_id", KeyNotFound)


def _facts(key: ApiKey) -> dict[str, str]:
    return {"key_id": str(key.id), "key_name": key.name, "project": key.project or "*"}
