"""A publishing channel through nothing but what aiormq documents: a task a publish, accounting of its own."""

import asyncio
import uuid

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import DeliveryError, PublishError
from aiormq.channel import Channel

from shared.broker.connection import CONNECTION_ERRORS, teardown_means_lost
from shared.broker.frames import properties_of
from shared.broker.outgoing import Outgoing, refused, unroutable
from shared.errors import BrokerUnavailable


class PlainChannel:
    """A task a publish, and aiormq's own accounting."""

    def __init__(self, channel: AbstractChannel, underlay: Channel, *, timeout_seconds: float) -> None:
        """Take over a new channel that confirms."""
        self.channel = channel
        self._underlay = underlay
        self._timeout_seconds = timeout_seconds
        self._was_refused = False
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def is_spent(self) -> bool:
        """Whether it was refused by a queue, and nothing is on its way; see `ShortChannel`."""
        return self._was_refused and not self._sending

    def send(self, message: Outgoing) -> asyncio.Future[None]:
        """Publish a message."""
        task = asyncio.create_task(self._publish(message))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    def give_up(self) -> None:
        """Do nothing: aiormq tells everybody who waits."""

    async def _publish(self, message: Outgoing) -> None:
        # Every call makes a new message id: aiormq matches returned messages to publishes by it, and of two
        # equal ones in flight it would confirm one that was returned.
        properties = properties_of(message, message.message_id or uuid.uuid4().hex)
        try:
            with teardown_means_lost():
                async with asyncio.timeout(self._timeout_seconds):
                    await self._underlay.basic_publish(
                        message.body,
                        exchange=message.exchange,
                        routing_key=message.routing_key,
                        properties=properties,
                        mandatory=message.is_mandatory,
                    )
        except PublishError as error:
            raise unroutable(message) from error
        except DeliveryError as error:
            self._was_refused = True
            raise refused(message) from error
        except CONNECTION_ERRORS as error:
            raise BrokerUnavailable(f"no confirm from the broker: {type(error).__name__}") from error
