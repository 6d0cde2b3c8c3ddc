"""The operations on secrets: make, look up, list, replace, delete. None shows a value that somebody gave."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import NEXT, Document
from producer.api.requests import Query, check_own_project, read_actor, read_caller, read_document, read_id
from producer.api.responses import json_response
from producer.callers import PROJECT_PATTERN
from producer.sealing import sealed_value
from producer.secrets import (
    DEFAULT_OVERLAP,
    MAX_OVERLAP,
    StoredSecret,
    checked_origins,
    checked_value,
    new_signing_secret,
)
from producer.store import secrets
from producer.store.database import Store
from shared.clock import utc_now
from shared.encryption import NO_KEYS, EncryptionKeys
from shared.errors import EncryptionKeysMissing, FieldError, JobInvalid, SecretNotFound
from shared.kinds.requests import SecretName
from shared.sealed import MAX_ORIGINS, MAX_SECRET_BYTES, Binding, SecretUse

logger = logging.getLogger(__name__)

PATH = "/secrets"
# A signing secret that was made here is in the answer, and nobody on the way keeps it.
_NOT_KEPT = {"Cache-Control": "no-store"}

T = TypeVar("T")

Origins = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1_000)]],
    Field(
        min_length=1,
        max_length=MAX_ORIGINS,
        description="Where it may be sent: scheme, host and port, such as `https://api.example.com`.",
    ),
]
Value = Annotated[
    SecretStr | None,
    Field(
        max_length=MAX_SECRET_BYTES,
        description="It is never shown again. A `webhook` secret is `whsec_` and base64; without one it is "
        "made, and shown in the answer alone.",
    ),
]


class SecretRequest(BaseModel):
    """A secret to be made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[SecretName, Field(description="By which jobs of the project name it.")]
    origins: Origins
    use: Annotated[
        SecretUse,
        Field(
            description="`request`: jobs name it in `headers` or `auth`. `webhook`: it signs what goes there."
        ),
    ] = SecretUse.REQUEST
    value: Value = None
    project: Annotated[
        str | None,
        Field(
            pattern=PROJECT_PATTERN, description="Yours; an operator names any, and means `default` by none."
        ),
    ] = None


class SecretReplacement(BaseModel):
    """Another value for a secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: Value = None
    origins: Annotated[
        Origins | None,
        Field(description="Null: as before. Nobody sends a secret elsewhere who does not know it."),
    ] = None
    overlap_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            le=int(MAX_OVERLAP.total_seconds()),
            description="Of a `webhook` secret: how long the one before signs too; a day by default.",
        ),
    ] = None


class SecretDocument(Document):
    """A secret, without its value."""

    id: UUID
    name: str
    project: str
    use: SecretUse
    origins: list[str]
    digest: Annotated[
        str | None,
        Field(
            description="The same for the same value, as in masks; null where the service has no key for it."
        ),
    ]
    key_id: Annotated[str, Field(description="Of the encryption key that has sealed it.")]
    previous_until: Annotated[
        datetime | None, Field(description="Of a `webhook` secret: until when the one before signs too.")
    ]
    created_at: datetime
    created_by: str
    updated_at: Annotated[datetime, Field(description="When its value was set.")]
    last_used_at: Annotated[
        datetime | None, Field(description="When a job was last sent out with it, to about a minute.")
    ]


class NewSecretDocument(SecretDocument):
    """A secret that was set just now."""

    value: Annotated[
        str | None, Field(description="What was made here, because none was sent. It is never shown again.")
    ]


class SecretPage(Document):
    """One page of secrets, newest first."""

    items: list[SecretDocument]
    next: Annotated[str | None, Field(description=NEXT)]


class SecretHandlers:
    """Keeps secrets, sealed, and shows everything of them but their values."""

    def __init__(self, store: Store, keys: EncryptionKeys) -> None:
        self._store = store
        self._keys = keys

    async def create_secret(self, request: Request) -> Response:
        """Keep a secret and answer 201 with it, and with its value if that was made here."""
        asked, caller = read_document(SecretRequest, await request.body()), read_caller(request)
        check_own_project(caller, asked.project, "secrets")
        origins = _checked("/origins", lambda: checked_origins(asked.origins))
        value, made = _value_of(asked.value, asked.use)
        self._check_keys()
        binding = Binding(asked.project or caller.home, asked.name, asked.use, origins)
        new = sealed_value(value, binding, self._keys)
        secret = StoredSecret.new(binding, new, by=read_actor(request), now=utc_now())
        await self._store.write(secrets.insert_secret, secret)
        logger.info("secret_created", extra=_facts(secret))
        headers = {"Location": f"{PATH}/{secret.id}", **_NOT_KEPT}
        return json_response(_new_document(secret, made), HTTPStatus.CREATED, headers)

    async def list_secrets(self, request: Request) -> Response:
        """Answer with one page of secrets, newest first."""
        query, project = Query(request), read_caller(request).project
        found = await self._store.read(
            secrets.list_secrets, project=project, limit=query.limit, after=query.id("cursor")
        )
        following = None if found.following is None else str(found.following)
        return json_response(SecretPage(items=[_document(each) for each in found.records], next=following))

    async def get_secret(self, request: Request) -> Response:
        """Answer with a secret."""
        return json_response(_document(await self._find(request)))

    async def replace_secret(self, request: Request) -> Response:
        """Give a secret another value, and answer with it."""
        body = await request.body()
        asked = read_document(SecretReplacement, body) if body else SecretReplacement()
        before = await self._find(request)
        if asked.overlap_seconds and before.use is not SecretUse.WEBHOOK:
            raise JobInvalid(
                [FieldError("/overlap_seconds", "A request is sent with one value, the new one")]
            )
        given = asked.origins
        origins = before.origins if given is None else _checked("/origins", lambda: checked_origins(given))
        value, made = _value_of(asked.value, before.use)
        self._check_keys()
        binding = Binding(before.project, before.name, before.use, origins)
        seconds = asked.overlap_seconds
        after = await self._store.write(
            secrets.replace_value,
            before,
            sealed_value(value, binding, self._keys),
            overlap=DEFAULT_OVERLAP if seconds is None else timedelta(seconds=seconds),
            by=read_actor(request),
            now=utc_now(),
        )
        logger.info("secret_replaced", extra=_facts(after))
        return json_response(_new_document(after, made), headers=_NOT_KEPT)

    async def delete_secret(self, request: Request) -> Response:
        """Delete a secret and answer 204."""
        secret = await self._store.write(
            secrets.delete_secret,
            _id(request),
            project=read_caller(request).project,
            by=read_actor(request),
            now=utc_now(),
        )
        logger.info("secret_deleted", extra=_facts(secret))
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _find(self, request: Request) -> StoredSecret:
        project = read_caller(request).project
        return await self._store.read(secrets.get_secret, _id(request), project=project)

    def _check_keys(self) -> None:
        if not self._keys:
            raise EncryptionKeysMissing(f"Nothing can be kept in secret: {NO_KEYS}.")


def _value_of(given: SecretStr | None, use: SecretUse) -> tuple[str, str | None]:
    """Return the value of a secret, and the same again if it was made here.

    Raises:
        JobInvalid: it was not given, or cannot be used.
    """
    if given is not None:
        return _checked("/value", lambda: checked_value(given.get_secret_value(), use)), None
    if use is not SecretUse.WEBHOOK:
        raise JobInvalid([FieldError("/value", "Field required; only secrets for webhooks are made here")])
    made = new_signing_secret()
    return made, made


def _checked(loc: str, check: Callable[[], T]) -> T:
    try:
        return check()
    except ValueError as error:
        raise JobInvalid([FieldError(loc, str(error))]) from None


def _document(secret: StoredSecret) -> SecretDocument:
    return SecretDocument.of(secret, **_computed(secret))


def _new_document(secret: StoredSecret, made: str | None) -> SecretDocument:
    return NewSecretDocument.of(secret, **_computed(secret), value=made)


def _computed(secret: StoredSecret) -> dict[str, object]:
    is_over = secret.previous_at(utc_now()) is None
    return {
        "origins": [*secret.origins],
        "key_id": secret.key_id,
        "previous_until": None if is_over else secret.previous_until,
    }


def _id(request: Request) -> UUID:
    return read_id(request, "secret_id", SecretNotFound)


def _facts(secret: StoredSecret) -> dict[str, str]:
    # A field that was called a secret would be masked.
    return {"kept_id": str(secret.id), "kept_name": secret.name, "project": secret.project}
