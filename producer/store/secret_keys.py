"""Random keys that belong to the store: all processes on it share them, and a backup has them."""

import secrets

import sqlalchemy as sa

from producer.store.schema import secret_keys
from producer.store.sql import insert_absent

RUN_TOKENS = "run_tokens"
API_KEYS = "api_keys"


def find_key(connection: sa.Connection, name: str) -> bytes | None:
    """Return a key; None when none of this name has been made."""
    key: bytes | None = connection.scalar(sa.select(secret_keys.c.value).where(secret_keys.c.name == name))
    return None if key is None else bytes(key)


def keep_key(connection: sa.Connection, name: str, *, key_bytes: int) -> bytes:
    """Return a key, made now if there is none of this name. Of two processes at once, both get the same."""
    if (key := find_key(connection, name)) is None:
        new = {"name": name, "value": secrets.token_bytes(key_bytes)}
        connection.execute(insert_absent(connection, secret_keys).values(new))
        key = find_key(connection, name)
    assert key is not None
    return key
