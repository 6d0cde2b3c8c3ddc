"""A message to publish, and how publishing it fails."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from shared.errors import MessageRefused, MessageUnroutable

_NO_HEADERS: Mapping[str, str | int] = MappingProxyType({})


class Outgoing(NamedTuple):
    """A message to publish, persistent; it comes back when no queue is bound for it, if it is mandatory.

    Attributes:
        message_id: Only of a message that is not mandatory; others get a new one each time.
        type: `job` or `report`, the AMQP type property.
        job_id: Goes into `correlation_id`; empty when the message cannot be read.
    """

    exchange: str
    routing_key: str
    body: bytes
    type: str
    job_id: str = ""
    headers: Mapping[str, str | int] = _NO_HEADERS
    content_type: str = "application/json"
    message_id: str | None = None

    @property
    def is_mandatory(self) -> bool:
        """Whether somebody must be bound for it."""
        return self.message_id is None


def unroutable(message: Outgoing) -> MessageUnroutable:
    """Return what a message fails with that no queue is bound for."""
    return MessageUnroutable(f"{message.exchange} has no queue for {message.routing_key}")


def refused(message: Outgoing) -> MessageRefused:
    """Return what a message fails with that a queue rejected."""
    return MessageRefused(f"a queue of {message.exchange} refused {message.routing_key}")
