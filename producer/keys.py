"""API keys: their text, what is stored of it, and what one may do. Pure.

A key's text is `rtv_`, a start of 8 characters that names it, `_`, a secret of 43 (256 bits) and a checksum
of 6: whoever scans code or logs for it finds it by its form, and tells it from what only looks like one
without asking us. Stored are the start and a keyed hash of the whole: a copy of the store opens nothing.
"""

import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from typing import Final
from uuid import UUID

from producer.callers import Caller, Scope
from shared.identity import new_id

PREFIX: Final = "rtv_"
KEY_NAME_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9._@/-]{0,98}[A-Za-z0-9])?$"
HASH_KEY_BYTES: Final = 32
MAX_KEYS: Final = 10_000
"""That live at a time: every API process holds them all in memory."""
MAX_RATE_PER_SECOND: Final = 1_000_000
MAX_OVERLAP: Final = timedelta(days=30)
DEFAULT_OVERLAP: Final = timedelta(days=1)

_ALPHABET = string.digits + string.ascii_letters
START_CHARACTERS: Final = 8
_SECRET_CHARACTERS = 43
_CHECKSUM_CHARACTERS = 6
_FORM = re.compile(
    rf"{PREFIX}([0-9A-Za-z]{{{START_CHARACTERS}}})_"
    rf"[0-9A-Za-z]{{{_SECRET_CHARACTERS + _CHECKSUM_CHARACTERS}}}"
)


class KeyState(StrEnum):
    """Whether a key opens anything."""

    LIVE = "live"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeySecret:
    """One text of a key, as it is stored; a key has two while it is rotated.

    Attributes:
        start: Its first characters, behind the prefix; no two are the same.
        digest: The keyed hash of the whole text.
        expires_at: When it ends before its key does; None for the newest.
    """

    start: str
    digest: bytes
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored.

    Attributes:
        project: What it sees; None for an operator's, which sees all projects.
        secrets: The newest first.
        last_used_at: To the minute.
        rate_per_second: How many requests it may be sent with; None for the rate of all keys.
    """

    id: UUID
    name: str
    project: str | None
    scopes: frozenset[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    secrets: tuple[KeySecret, ...]
    rate_per_second: int | None = None

    @property
    def actor(self) -> str:
        """Who its bearer is, as the audit log keeps it."""
        return f"key:{self.name}"

    @property
    def caller(self) -> Caller:
        """Who its bearer is, and what they may do."""
        return Caller(self.actor, self.project, self.scopes, self.rate_per_second)

    def state(self, now: datetime) -> KeyState:
        """Return whether it opens anything now."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        is_over = self.expires_at is not None and self.expires_at <= now
        return KeyState.EXPIRED if is_over else KeyState.LIVE

    def live_secrets(self, now: datetime) -> tuple[KeySecret, ...]:
        """Return those of its texts that open something now."""
        if self.state(now) is not KeyState.LIVE:
            return ()
        return tuple(each for each in self.secrets if each.expires_at is None or each.expires_at > now)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that somebody asks for; one that lives for None lives until it is revoked."""

    name: str
    scopes: frozenset[Scope]
    project: str | None = None
    lives: timedelta | None = None
    rate_per_second: int | None = None

    def stored(self, secret: KeySecret, *, by: str, now: datetime) -> ApiKey:
        """Return the key as it is stored."""
        return ApiKey(
            id=new_id(),
            name=self.name,
            project=self.project,
            scopes=self.scopes,
            created_at=now,
            created_by=by,
            expires_at=None if self.lives is None else now + self.lives,
            revoked_at=None,
            last_used_at=None,
            secrets=(secret,),
            rate_per_second=self.rate_per_second,
        )


def new_text() -> str:
    """Return the text of a new key: its bearer keeps it, and nobody else can show it again."""
    start = _random(START_CHARACTERS)
    body = f"{PREFIX}{start}_{_random(_SECRET_CHARACTERS)}"
    return body + _checksum(body)


def start_of(text: str) -> str | None:
    """Return what a key's text begins with, behind the prefix; None when no key of ours looks so."""
    match = _FORM.fullmatch(text)
    if match is None or _checksum(text[:-_CHECKSUM_CHARACTERS]) != text[-_CHECKSUM_CHARACTERS:]:
        return None
    return match[1]


def secret_of(text: str, hash_key: bytes) -> KeySecret:
    """Return what is stored of a key's text.

    Raises:
        ValueError: no key of ours looks so.
    """
    if (start := start_of(text)) is None:
        raise ValueError("not the text of a key")
    return KeySecret(start, digest_of(text, hash_key))


def digest_of(text: str, hash_key: bytes) -> bytes:
    """Return the keyed hash of a key's text. The text has 256 random bits, so no slow hash adds anything."""
    return blake2b(text.encode(), key=hash_key, digest_size=32).digest()


def opens(text: str, secret: KeySecret, hash_key: bytes) -> bool:
    """Return whether a text is the one that was stored, in a time that tells nothing of it."""
    return hmac.compare_digest(digest_of(text, hash_key), secret.digest)


def rotated(key: ApiKey, new: KeySecret, *, overlap: timedelta, now: datetime) -> tuple[KeySecret, ...]:
    """Return the texts of a key that gets a new one: the one before lives on for a while, older ones end."""
    newest = key.secrets[0]
    ends_at = now + overlap
    if newest.expires_at is not None:
        ends_at = min(ends_at, newest.expires_at)
    return (new, replace(newest, expires_at=ends_at)) if overlap else (new,)


def _random(characters: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(characters))


def _checksum(text: str) -> str:
    """Return the CRC-32 of a text in base 62, as GitHub's tokens have it."""
    number, digits = zlib.crc32(text.encode()), []
    for _ in range(_CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
