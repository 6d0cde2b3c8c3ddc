"""Secrets on their way: sealed by `shared.encryption`, and bound to where they may be sent. Pure."""

import base64
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import SecretUnreadable
from shared.kinds.requests import SecretName

MAX_SECRET_BYTES: Final = 4_096
"""As much as the value of a header field of a job."""
MAX_SEALED: Final = 64
"""What a job brings of them at most: far more than it may name."""
MAX_ORIGINS: Final = 20

# A box begins with a version, and the key that has sealed it.
BOX_VERSION: Final = b"\x01"
KEY_ID_BYTES: Final = 4


class SecretUse(StrEnum):
    """What a secret is for. Wire and database names: only ever added to."""

    REQUEST = "request"
    WEBHOOK = "webhook"


@dataclass(frozen=True, slots=True)
class Binding:
    """What is bound to what is sealed.

    Attributes:
        use: Of a secret a `SecretUse`; what else is sealed has another.
        origins: As `shared.urls.origin_words` writes them, sorted.
    """

    project: str
    name: str
    use: str
    origins: tuple[str, ...]

    def octets(self) -> bytes:
        """Return what is authenticated: no two bindings have the same."""
        return json.dumps([self.project, self.name, str(self.use), list(self.origins)]).encode()


class SealedSecret(BaseModel):
    """A secret on its way to a worker; `box` is the base64 of what `EncryptionKeys.seal` returns."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: SecretName
    use: SecretUse
    origins: Annotated[tuple[Annotated[str, Field(max_length=1_000)], ...], Field(max_length=MAX_ORIGINS)]
    box: Annotated[str, Field(max_length=4 * MAX_SECRET_BYTES)]

    @classmethod
    def of(cls, binding: Binding, box: bytes) -> Self:
        """Return what travels of a sealed secret."""
        text = base64.b64encode(box).decode()
        return cls(name=binding.name, use=SecretUse(binding.use), origins=binding.origins, box=text)

    def binding(self, project: str) -> Binding:
        """Return what it must be bound to, to be a secret of a project."""
        return Binding(project, self.name, self.use, self.origins)

    def octets(self) -> bytes:
        """Return the box.

        Raises:
            SecretUnreadable: it is not base64.
        """
        try:
            return base64.b64decode(self.box, validate=True)
        except ValueError:
            raise SecretUnreadable("it is not what was sealed") from None


def key_of(box: bytes) -> str:
    """Return how the key is called that has sealed a box."""
    return box[len(BOX_VERSION) :][:KEY_ID_BYTES].hex()
