"""What only workers know: secrets of targets, each sent to its own origin alone, and keys of webhooks.

A secret of a project comes with the job, sealed; one of the installation is a file. A project's goes first.
"""

import asyncio
import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

from pydantic import SecretStr
from standardwebhooks import Webhook

from consumer.http.failures import Failure, secret_elsewhere, secret_missing, secret_unreadable
from shared.encryption import EncryptionKeys
from shared.errors import SecretUnreadable
from shared.messages import DEFAULT_PROJECT, JobMessage
from shared.sealed import SealedSecret, SecretUse
from shared.urls import origin_words, url_origin

MAX_SECRET_BYTES = 8_192
_THREADS = 4


# Names and IPv4 addresses. A `+` would make one folder of two origins, and a URL's host may hold one.
_PLAIN_HOST = re.compile(r"[a-z0-9_-][a-z0-9_.-]*")


def secret_folder(url: str) -> str | None:
    """Return the name of the folder with the secrets for a URL's origin; None when there can be none.

    It is the host alone for https on port 443, else `<scheme>+<host>+<port>`. There is no colon in it, since
    volumes of containers can have none: an IPv6 address is `[2001-db8--1]`.

    Args:
        url: Normalized.
    """
    scheme, host, port = url_origin(url)
    if host.startswith("["):
        host = host.replace(":", "-")
    elif not _PLAIN_HOST.fullmatch(host):
        return None
    return host if (scheme, port) == ("https", 443) else f"{scheme}+{host}+{port}"


@dataclass(frozen=True, slots=True)
class Secrets:
    """Opens what comes with a job, and reads `<folder>/<origin>/<name>`: an origin has a folder.

    Without keys nothing opens, and without a folder there are no files.
    """

    folder: Path | None = None
    keys: EncryptionKeys = field(default_factory=EncryptionKeys)
    # Of their own: a folder that hangs, as on a network, holds up nobody who reads none.
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_THREADS, thread_name_prefix="secrets"), repr=False
    )

    async def find_all(
        self, names: Collection[str], *, url: str, job: JobMessage | None
    ) -> dict[str, str | Failure]:
        """Return secrets for a URL's origin, by their names; for one that cannot be had, why not.

        Args:
            names: As `shared.kinds.requests.SecretName` allows them: no paths.
            url: Normalized.
            job: Brings those of its project.
        """
        found: dict[str, str | Failure] = {}
        for sealed in job.sealed or () if job is not None else ():
            if sealed.use is SecretUse.REQUEST and sealed.name in names:
                found[sealed.name] = self._opened(sealed, url=url, job=job)
        if in_files := [name for name in names if name not in found]:
            found |= await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: {name: self._read(name, url=url, job=job) for name in in_files}
            )
        return found

    def signer_for(self, url: str, job: JobMessage) -> "Signer | Failure | None":
        """Return what signs a job's webhook where its receiver has secrets of its own; None elsewhere."""
        own = [sealed for sealed in job.sealed or () if sealed.use is SecretUse.WEBHOOK]
        opened = [self._opened(sealed, url=url, job=job) for sealed in own]
        if failure := next((each for each in opened if isinstance(each, Failure)), None):
            # Another signature would say that it is genuine to somebody else.
            return failure
        return Signer(SecretStr(each) for each in opened if isinstance(each, str)) if opened else None

    def _opened(self, sealed: SealedSecret, *, url: str, job: JobMessage | None) -> str | Failure:
        origin = origin_words(url)
        if origin not in sealed.origins:
            return secret_elsewhere(sealed.name, origin, sealed.origins)
        project = (job.project if job is not None else None) or DEFAULT_PROJECT
        try:
            return self.keys.open(sealed.octets(), sealed.binding(project))
        except SecretUnreadable as error:
            return secret_unreadable(sealed.name, project, str(error))

    def _read(self, name: str, *, url: str, job: JobMessage | None) -> str | Failure:
        secret = self.read(name, url=url)
        if secret is not None:
            return secret
        project = (job.project if job is not None else None) or DEFAULT_PROJECT
        return secret_missing(name, origin_words(url), secret_folder(url), project=project)

    def read(self, name: str, *, url: str) -> str | None:
        """Return a secret of a URL's origin, without blanks around it; None when this worker has none.

        Read anew each time, so that a secret can be renewed while workers run.

        Args:
            name: As `shared.kinds.requests.SecretName` allows it: no path.
            url: Normalized.
        """
        origin = secret_folder(url)
        if self.folder is None or origin is None:
            return None
        path = self.folder / origin / name
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
