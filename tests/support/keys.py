"""API keys for tests, made in the store as `python -m producer keys create` does."""

from collections.abc import Collection
from datetime import datetime, timedelta

from producer.callers import Scope
from producer.keys import NewKey, new_text, secret_of
from producer.store import keys
from producer.store.database import Connection, Database
from shared.clock import utc_now


def make_key(
    store: Database,
    name: str,
    scopes: Collection[Scope] = tuple(Scope),
    *,
    project: str | None = None,
    lives: timedelta | None = None,
    rate_per_second: int | None = None,
    now: datetime | None = None,
) -> str:
    """Store a key, and return its text."""
    text = new_text()

    def insert(connection: Connection) -> None:
        secret = secret_of(text, keys.keep_hash_key(connection))
        new = NewKey(name, frozenset(scopes), project, lives, rate_per_second)
        keys.insert_key(connection, new.stored(secret, by="a test", now=now or utc_now()))

    store.write(insert)
    return text


def bearer(text: str) -> dict[str, str]:
    """Return the header that shows a key or a token."""
    return {"Authorization": f"Bearer {text}"}
