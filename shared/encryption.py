"""The keys that seal secrets, with AES-256-GCM (NIST SP 800-38D). Pure.

What a secret is bound to, its project, name, use and origins, is authenticated along with it: in another row,
or for another origin, the same octets do not open. The keys are in a file of the processes that seal or open.
docs/decisions/0041-secrets-are-sealed-and-travel-with-their-jobs.md says why.
"""

import base64
import hashlib
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Self

from pydantic import SecretStr

from shared.errors import SecretUnreadable
from shared.sealed import BOX_VERSION, KEY_ID_BYTES, Binding, key_of
from shared.setting_values import KEY_BYTES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NO_KEYS: Final = "there are no encryption keys here: set RETRIEVER_ENCRYPTION_KEYS_FILE (docs/secrets.md)"

# What GCM takes without hashing it first. Random: one key may seal 2**32 times (SP 800-38D section 8.3).
_NONCE_BYTES = 12
_HEAD_BYTES = len(BOX_VERSION) + KEY_ID_BYTES + _NONCE_BYTES


class EncryptionKeys:
    """The keys of this process: the first seals, each opens what it has sealed."""

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        """Take the keys, of `KEY_BYTES` each, the newest first."""
        self._by_id = {_id_of(key): _cipher(key) for key in keys}

    @classmethod
    def of(cls, texts: Iterable[SecretStr]) -> Self:
        """Return the keys that a setting has in base64; the setting has been checked."""
        return cls(base64.b64decode(text.get_secret_value()) for text in texts)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._by_id)

    def __repr__(self) -> str:
        return f"EncryptionKeys({', '.join(each.hex() for each in self._by_id)})"

    def seal(self, text: str, binding: Binding) -> bytes:
        """Return a text that only one of these keys opens, and only as the secret that it is bound to.

        Raises:
            SecretUnreadable: there is no key.
        """
        if not self:
            raise SecretUnreadable(NO_KEYS)
        key_id, key = next(iter(self._by_id.items()))
        nonce = secrets.token_bytes(_NONCE_BYTES)
        head = BOX_VERSION + key_id + nonce
        return head + key.encrypt(nonce, text.encode(), _authenticated(head, binding))

    def open(self, box: bytes, binding: Binding) -> str:
        """Return the text that was sealed.

        Raises:
            SecretUnreadable: none of these keys has sealed it, it was changed, or it is bound to something
                else; ends a sentence with why.
        """
        if not self:
            raise SecretUnreadable(NO_KEYS)
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415

        key_id, head = box[1 : 1 + KEY_ID_BYTES], box[:_HEAD_BYTES]
        if box[:1] != BOX_VERSION or len(box) <= _HEAD_BYTES:
            raise SecretUnreadable("it is not what was sealed, or was sealed by a newer version")
        if (key := self._by_id.get(key_id)) is None:
            raise SecretUnreadable(
                f"it was sealed with the key {key_of(box)}, which the file of encryption keys here lacks"
            )
        try:
            sealed = box[_HEAD_BYTES:]
            return key.decrypt(head[-_NONCE_BYTES:], sealed, _authenticated(head, binding)).decode()
        except (InvalidTag, UnicodeDecodeError):
            raise SecretUnreadable(
                "it was changed, or is bound to another project, name or origin than it is kept for"
            ) from None

    def knows(self, box: bytes) -> bool:
        """Return whether one of these keys has sealed it."""
        return box[1 : 1 + KEY_ID_BYTES] in self._by_id

    def is_newest(self, box: bytes) -> bool:
        """Return whether the first of these keys has sealed it."""
        return next(iter(self._by_id), None) == box[1 : 1 + KEY_ID_BYTES]


def new_key() -> str:
    """Return a new key as a line of the file of keys."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def _cipher(key: bytes) -> "AESGCM":
    # Here, so that processes without keys do not carry the library in their memory.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    return AESGCM(key)


def _authenticated(head: bytes, binding: Binding) -> bytes:
    return head + binding.octets()


def _id_of(key: bytes) -> bytes:
    # It tells nothing of a key of 256 random bits.
    return hashlib.sha256(b"retriever encryption key " + key).digest()[:KEY_ID_BYTES]
