"""Webhooks that Retriever sends: proved to be its own (Standard Webhooks), then read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from retriever_client.errors import WebhookInvalid


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook whose signature holds.

    Attributes:
        id: The same each time that one is delivered again: keep it to know repeats.
        type: Such as `job.succeeded` or `batch.completed`; your own for jobs of kind webhook.
        data: What is told, such as `job_id`, `state` and `result`.
    """

    id: str
    type: str
    timestamp: datetime
    data: Any
    raw: Mapping[str, Any] = field(repr=False, compare=False)


def unwrap(body: bytes | str, headers: Mapping[str, str], secrets: Sequence[str] | str) -> Webhook:
    """Return the webhook in a request, signed with one of your secrets at most five minutes ago.

    Args:
        body: As it came: what a framework has parsed and written again does not match its signature.
        headers: Of the request; their names in any case.
        secrets: Each `whsec_...`; two while one takes the other's place.

    Raises:
        WebhookInvalid: none of the secrets has signed it, it is too old, or it is no such document.
    """
    import standardwebhooks  # noqa: PLC0415 - only who gets webhooks needs it

    given = [secrets] if isinstance(secrets, str) else list(secrets)
    text = body.decode("utf-8", errors="replace") if isinstance(body, bytes) else body
    lower = {name.lower(): value for name, value in headers.items()}
    why = "there is no secret to hold it against"
    for secret in given:
        try:
            standardwebhooks.Webhook(secret).verify(text, lower)
        except Exception as error:
            why = str(error) or type(error).__name__
            continue
        return _read(text, lower)
    raise WebhookInvalid(f"The webhook cannot be trusted: {why}.")


def _read(text: str, headers: Mapping[str, str]) -> Webhook:
    try:
        document = json.loads(text)
        return Webhook(
            id=headers["webhook-id"],
            type=document["type"],
            timestamp=datetime.fromisoformat(document["timestamp"]),
            data=document["data"],
            raw=document,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise WebhookInvalid(f"The webhook is no document of Retriever: {error!r}.") from None
