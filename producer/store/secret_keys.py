"""Random keys that belong to the store: all processes on it share them, and a backup has them."""

import secrets

import sqlalchemy as sa

from producer.store.schema import secret_keys
from producer.store.sql import insert_absent

RUN_TOKENS = "run_tokens"


def keep_key(connection: sa.Connection, name: str, *, key_bytes: int) -> bytes:
    """Return a key, made now if there is none of this name. Of two processes at once, both get the same."""
    here = sa.select(secret_keys.c.value).where(secret_keys.c.name == name)
    key: bytes | None = connection.scalar(here)
    if key is None:
        new = {"name": name, "value": secrets.token_bytes(key_bytes)}
        connection.execute(insert_absent(connection, secret_keys).values(new))
        key = connection.execute(here).scalar_one()
    return bytes(key)
