"""Secrets of projects for tests, kept as the API keeps them."""

from collections.abc import Iterable
from datetime import datetime

from producer.sealing import sealed_value
from producer.secrets import StoredSecret, checked_origins
from producer.store import secrets
from producer.store.database import Database
from shared.encryption import EncryptionKeys
from shared.sealed import Binding, SealedSecret, SecretUse
from tests.support.factories import NOON

KEYS = EncryptionKeys([bytes(range(32))])


def make_secret(
    name: str,
    value: str,
    *origins: str,
    project: str = "default",
    use: SecretUse = SecretUse.REQUEST,
    keys: EncryptionKeys = KEYS,
    now: datetime = NOON,
) -> StoredSecret:
    """Return a secret that is about to be stored."""
    binding = Binding(project, name, use, checked_origins(origins))
    return StoredSecret.new(binding, sealed_value(value, binding, keys), by="a test", now=now)


def keep_secrets(store: Database, *kept: StoredSecret) -> None:
    """Store secrets."""
    for secret in kept:
        store.write(secrets.insert_secret, secret)


def opened(sealed: Iterable[SealedSecret], *, project: str = "default") -> list[tuple[str, str]]:
    """Return the names and values of what goes along with a job."""
    return [(each.name, KEYS.open(each.octets(), each.binding(project))) for each in sealed]
