"""Secrets of targets, by name: a folder a host, a file a secret. A secret is sent to its own host alone."""

from dataclasses import dataclass
from pathlib import Path

MAX_SECRET_BYTES = 8_192


@dataclass(frozen=True, slots=True)
class Secrets:
    """Reads `<folder>/<host>/<name>`; without a folder there is no secret."""

    folder: Path | None = None

    def read(self, name: str, *, host: str) -> str | None:
        """Return a secret of a host, without blanks around it; None when this worker has none.

        Read anew each time, so that a secret can be renewed while workers run.

        Args:
            name: As `shared.kinds.requests.SecretName` allows it: no path.
            host: As `shared.kinds.urls.url_host` returns it.
        """
        if self.folder is None or "/" in host or host in {"", ".", ".."}:
            return None
        path = self.folder / host / name
        try:
            with path.open("rb") as file:
                secret = file.read(MAX_SECRET_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError):
            return None
        return secret or None
