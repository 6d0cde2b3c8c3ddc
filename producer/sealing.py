"""Values of secrets, sealed with the keys of this process, and sealed anew when a new key has come. Pure."""

from dataclasses import replace
from datetime import datetime

from producer.secrets import NewValue, StoredSecret
from shared.encryption import EncryptionKeys
from shared.redaction import digest_of
from shared.sealed import Binding


def sealed_value(value: str, binding: Binding, keys: EncryptionKeys) -> NewValue:
    """Return a value, sealed.

    Raises:
        SecretUnreadable: there is no key.
    """
    return NewValue(binding.origins, keys.seal(value, binding), digest_of(value))


def resealed(secret: StoredSecret, keys: EncryptionKeys, *, now: datetime) -> StoredSecret | None:
    """Return a secret sealed with the first key, without a value that signs no longer; None if it is so.

    Raises:
        SecretUnreadable: one of its boxes does not open.
    """
    previous = secret.previous_at(now)
    boxes = [box for box in (secret.box, previous) if box is not None]
    if previous is secret.previous_box and all(map(keys.is_newest, boxes)):
        return None
    values = [keys.open(box, secret.binding) for box in boxes]
    anew = [keys.seal(value, secret.binding) for value in values]
    return replace(
        secret,
        box=anew[0],
        digest=digest_of(values[0]),
        previous_box=anew[1] if previous is not None else None,
        previous_until=secret.previous_until if previous is not None else None,
    )
