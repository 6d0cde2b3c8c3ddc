"""Secrets of projects: what jobs name instead of saying it, and what webhooks are signed with. Pure."""

import base64
import re
import secrets as random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self
from uuid import UUID

import msgspec

from producer.records import ClaimedJob
from producer.stored_json import NULL, StoredObject, pick, scalar
from shared.identity import new_id
from shared.kinds.requests import SECRET_NAME_PATTERN
from shared.kinds.webhook import WEBHOOK
from shared.sealed import MAX_ORIGINS, MAX_SECRET_BYTES, Binding, SealedSecret, SecretUse, key_of
from shared.setting_values import is_webhook_secret
from shared.urls import has_credentials, normalize_url, origin_words, url_query

MAX_SECRETS: Final = 1_000
"""The secrets of one project."""
MAX_SIGNING: Final = 10
"""The newest so many of those that sign for a receiver do."""
DEFAULT_OVERLAP: Final = timedelta(days=1)
MAX_OVERLAP: Final = timedelta(days=30)
_SIGNING_BYTES = 32
# Nothing that names a secret is without it, and of most arguments it is all that is looked for.
_NAMING = '"secret"'
_NAME = re.compile(SECRET_NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class NewValue:
    """A value for a secret, sealed, and the origins that it is sealed for."""

    origins: tuple[str, ...]
    box: bytes
    digest: str | None


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret as it is stored.

    Attributes:
        box: What `EncryptionKeys.seal` made of its value.
        digest: Of its value, as masks show it; None without a key for masks.
        previous_box: Of a webhook's secret that was replaced, the one before, which signs too until
            `previous_until`.
    """

    id: UUID
    project: str
    name: str
    use: SecretUse
    origins: tuple[str, ...]
    box: bytes
    digest: str | None
    created_at: datetime
    created_by: str
    updated_at: datetime
    last_used_at: datetime | None = None
    previous_box: bytes | None = None
    previous_until: datetime | None = None

    @classmethod
    def new(cls, binding: Binding, value: NewValue, *, by: str, now: datetime) -> Self:
        """Return a secret with its first value."""
        return cls(
            id=new_id(),
            project=binding.project,
            name=binding.name,
            use=SecretUse(binding.use),
            origins=value.origins,
            box=value.box,
            digest=value.digest,
            created_at=now,
            created_by=by,
            updated_at=now,
        )

    @property
    def binding(self) -> Binding:
        """What its boxes are bound to."""
        return Binding(self.project, self.name, self.use, self.origins)

    @property
    def key_id(self) -> str:
        """How the key is called that has sealed it."""
        return key_of(self.box)

    def sealed(self, now: datetime) -> tuple[SealedSecret, ...]:
        """Return what travels of it: its value, and the one before while that signs too."""
        boxes = (self.box, self.previous_at(now))
        return tuple(SealedSecret.of(self.binding, box) for box in boxes if box is not None)

    def previous_at(self, now: datetime) -> bytes | None:
        """Return what signs too at a time; None when nothing does."""
        return self.previous_box if self.previous_until is not None and self.previous_until > now else None


@dataclass(frozen=True, slots=True)
class Named:
    """What a job needs that is about to be sent: secrets of its project by their names, or what signs it."""

    names: frozenset[str] = frozenset()
    is_webhook: bool = False


_SIGNED = Named(is_webhook=True)


def named_in(job: ClaimedJob) -> Named | None:
    """Return what a job names; None for most jobs, of which nothing is read."""
    if job.kind == WEBHOOK:
        return _SIGNED
    if _NAMING not in job.args_json:
        return None
    try:
        names = frozenset(_names(job.args))
    except ValueError:
        # A lone surrogate, which JSON of a third party may hold: no worker takes such arguments.
        return None
    return Named(names) if names else None


def receiver_of(job: ClaimedJob) -> str | None:
    """Return the origin that a webhook goes to; None when it has none."""
    url = scalar(pick(StoredObject(job.args_json), _RECEIVER).url)
    try:
        return origin_words(url) if isinstance(url, str) else None
    except ValueError:
        return None


def checked_origins(origins: Iterable[str]) -> tuple[str, ...]:
    """Return origins in one spelling, sorted, each once.

    Raises:
        ValueError: one of them is no origin, says which; or there are none, or too many.
    """
    found = sorted({checked_origin(each) for each in origins})
    if not 0 < len(found) <= MAX_ORIGINS:
        raise ValueError(f"A secret is for 1 to {MAX_ORIGINS} origins")
    return tuple(found)


def checked_origin(text: str) -> str:
    """Return an origin as `origin_words` writes it.

    Raises:
        ValueError: it is more or less than scheme, host and port.
    """
    try:
        url = normalize_url(text)
    except ValueError:
        url = ""
    is_bare = url.count("/") == 3 and url.endswith("/")
    if not is_bare or has_credentials(url) or url_query(url):
        raise ValueError("Must be an origin and no more, such as https://api.example.com or http://host:8080")
    return origin_words(url)


def checked_value(value: str, use: SecretUse) -> str:
    """Return a value that can be sent, or that can sign.

    Raises:
        ValueError: it cannot; the message does not repeat it.
    """
    if use is SecretUse.WEBHOOK:
        if not is_webhook_secret(value):
            raise ValueError("Must be whsec_ and the base64 of 24 to 64 bytes; leave it out to have one made")
        return value
    if not value or len(value.encode(errors="replace")) > MAX_SECRET_BYTES:
        raise ValueError(f"Must have 1 to {MAX_SECRET_BYTES:,} bytes")
    # A line feed would end the header field; blanks around it are no part of a field's value.
    if not value.isprintable() or value != value.strip():
        raise ValueError("Must be without control characters, line breaks, and blanks around it")
    return value


def new_signing_secret() -> str:
    """Return a new secret for webhooks, as Standard Webhooks has them."""
    return f"whsec_{base64.b64encode(random.token_bytes(_SIGNING_BYTES)).decode()}"


def _names(args: Mapping[str, Any]) -> Iterable[str]:
    headers, auth = args.get("headers"), args.get("auth")
    values: Sequence[Any] = [
        *(headers.values() if isinstance(headers, dict) else ()),
        *(auth.values() if isinstance(auth, dict) else ()),
    ]
    for value in values:
        name = value.get("secret") if isinstance(value, dict) else None
        # Third parties may write anything there.
        if isinstance(name, str) and _NAME.fullmatch(name):
            yield name


class _Receiver(msgspec.Struct):
    url: msgspec.Raw = NULL


_RECEIVER = msgspec.json.Decoder(_Receiver)
