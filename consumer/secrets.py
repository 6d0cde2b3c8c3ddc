"""What only workers know: secrets of targets, each sent to its own host alone, and keys of webhooks."""

import asyncio
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

from pydantic import SecretStr
from standardwebhooks import Webhook

MAX_SECRET_BYTES = 8_192
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Secrets:
    """Reads `<folder>/<host>/<name>`: a folder a host, a file a secret. Without a folder there are none."""

    folder: Path | None = None
    # Of their own: a folder that hangs, as on a network, holds up nobody who reads none.
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_THREADS, thread_name_prefix="secrets"), repr=False
    )

    async def read_all(self, names: Collection[str], *, host: str) -> dict[str, str | None]:
        """Return secrets of a host as `read` does, by their names, read off the event loop."""

        def read_each() -> dict[str, str | None]:
            return {name: self.read(name, host=host) for name in names}

        return await asyncio.get_running_loop().run_in_executor(self._threads, read_each)

    def read(self, name: str, *, host: str) -> str | None:
        """Return a secret of a host, without blanks around it; None when this worker has none.

        Read anew each time, so that a secret can be renewed while workers run.

        Args:
            name: As `shared.kinds.requests.SecretName` allows it: no path.
            host: As `shared.urls.url_host` returns it.
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


class Signer:
    """Signs webhooks (Standard Webhooks) with each of its secrets, so that secrets can be renewed."""

    def __init__(self, secrets: Iterable[SecretStr] = ()) -> None:
        """Take the secrets, the newest first; the settings have checked them."""
        self._webhooks = [Webhook(secret.get_secret_value()) for secret in secrets]

    @property
    def can_sign(self) -> bool:
        """Whether there is a secret."""
        return bool(self._webhooks)

    def headers(self, webhook_id: UUID, body: str, *, now: datetime) -> dict[str, str]:
        """Return the headers of one attempt.

        Args:
            webhook_id: The same for every attempt, so that receivers can tell a repeated one.
            body: What is sent, to the letter.
            now: The attempt's time, in UTC: receivers refuse one that is more than minutes off.
        """
        signatures = (webhook.sign(str(webhook_id), now, body) for webhook in self._webhooks)
        return {
            "webhook-id": str(webhook_id),
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
