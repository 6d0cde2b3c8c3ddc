"""Several bodies in one message, one a line: newline-delimited JSON (https://github.com/ndjson/ndjson-spec).

Brokers and event loops pay for each message, and hardly for its size. JSON as we write it has no line breaks,
so a bundle is split without being parsed, and a line that cannot be decoded spoils no other.
"""

import asyncio
import logging
from collections.abc import Iterable

from shared.broker.delivery import Delivery
from shared.errors import DeliveryLost

NDJSON = "application/x-ndjson"

MAX_REPORTS = 1_000
"""More reports than a message of a worker holds: none has fewer than 150 bytes, and together 128 KiB."""

_END = b"\n"

logger = logging.getLogger(__name__)


def bundled(bodies: Iterable[bytes]) -> bytes:
    """Return the body of a message that carries several bodies."""
    return _END.join(bodies)


def bodies_of(body: bytes) -> list[bytes]:
    """Return the bodies that a message carries; one that is no bundle carries itself."""
    return [line for line in body.split(_END) if line] or [body]


def count_bodies(body: bytes) -> int:
    """Return an upper bound of how many bodies a message carries: it counts lines."""
    return body.count(_END) + 1


class Part:
    """One of the bodies of a delivery; settle it once, as a delivery."""

    __slots__ = ("_bundle", "_is_settled", "body")

    def __init__(self, bundle: "Bundle", body: bytes) -> None:
        """Make one; only `Bundle` does."""
        self._bundle = bundle
        self._is_settled = False
        self.body = body

    @property
    def routing_key(self) -> str:
        """The routing key of its message."""
        return self._bundle.delivery.routing_key

    @property
    def correlation_id(self) -> str:
        """Empty: a message has one such property, and this one has several jobs."""
        return ""

    @property
    def exchange(self) -> str:
        """The exchange that its message was published to."""
        return self._bundle.delivery.exchange

    @property
    def user_id(self) -> str | None:
        """The user who published its message, if that says so."""
        return self._bundle.delivery.user_id

    @property
    def was_dead(self) -> bool:
        """Whether the broker had taken its message out of a queue for good."""
        return self._bundle.delivery.was_dead

    @property
    def is_redelivered(self) -> bool:
        """Whether its message may have been delivered before."""
        return self._bundle.delivery.is_redelivered

    @property
    def is_lost(self) -> bool:
        """Whether its channel is gone."""
        return self._bundle.delivery.is_lost

    @property
    def returns(self) -> int:
        """How often the broker took its message back."""
        return self._bundle.delivery.returns

    def ack(self) -> None:
        """Note that it is dealt with."""
        if self._settles():
            self._bundle.settled()

    async def requeue(self) -> None:
        """Give it back untouched, and with it the whole message, once the other parts are settled.

        Raises:
            DeliveryLost: the channel is gone; the broker requeues the message by itself.
        """
        if self._settles():
            await self._bundle.give_back(is_refused=False)

    async def refuse(self) -> None:
        """Give it back as failed, and with it the whole message, once the other parts are settled.

        Raises:
            DeliveryLost: the channel is gone; the broker requeues the message by itself.
        """
        if self._settles():
            await self._bundle.give_back(is_refused=True)

    def _settles(self) -> bool:
        # A double count would ack a part that is not dealt with.
        was_settled, self._is_settled = self._is_settled, True
        return not was_settled


class Bundle:
    """A delivery that is settled with the last of its parts: acknowledged, unless one was given back.

    In that case the broker delivers all of it again, and parts that were dealt with are repeated.
    """

    def __init__(self, delivery: Delivery) -> None:
        """Take a delivery apart."""
        self.delivery = delivery
        self.parts = [Part(self, body) for body in bodies_of(delivery.body)]
        self._open = len(self.parts)
        self._is_given_back = self._is_refused = False
        # Kept, or the loop would forget it.
        self._giving_back: asyncio.Task[None] | None = None

    def settled(self) -> None:
        """Note that a part is dealt with."""
        self._open -= 1
        if self._open:
            return
        if self._is_given_back:
            self._giving_back = asyncio.create_task(self._give_all_back())
        else:
            self.delivery.ack()

    async def give_back(self, *, is_refused: bool) -> None:
        """Note that a part is not dealt with, and whether it counts as failed.

        Raises:
            DeliveryLost: it was the last, and the channel is gone.
        """
        self._is_given_back = True
        self._is_refused = self._is_refused or is_refused
        self._open -= 1
        if not self._open:
            await self._settle_otherwise()

    async def _settle_otherwise(self) -> None:
        await (self.delivery.refuse() if self._is_refused else self.delivery.requeue())

    async def _give_all_back(self) -> None:
        try:
            await self._settle_otherwise()
        except DeliveryLost:
            logger.info("delivery_lost", extra={"parts": len(self.parts)})
