"""Signatures of webhooks as Standard Webhooks say, one for each live secret, so that secrets can change."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from pydantic import SecretStr
from standardwebhooks import Webhook


class Signer:
    """Signs with every secret it has; without one it can sign nothing."""

    def __init__(self, secrets: Iterable[SecretStr] = ()) -> None:
        """Take the secrets, which settings have checked; the newest first."""
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
