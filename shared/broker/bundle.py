"""Several bodies in one message, one a line: newline-delimited JSON (https://github.com/ndjson/ndjson-spec).

What a broker, and an event loop, pay for is messages, and hardly what is in them. JSON as we write it has no
line breaks, so a bundle is taken apart without being read, and a line that nobody can read spoils no other.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from shared.broker.delivery import Delivery
from shared.errors import DeliveryLost

NDJSON = "application/x-ndjson"

_END = b"\n"

logger = logging.getLogger(__name__)


def bundled(bodies: Iterable[bytes]) -> bytes:
    """Return the body of a message that carries several."""
    return _END.join(bodies)


def bodies_of(body: bytes) -> list[bytes]:
    """Return what a message carries; a body that is not bundled is the only one."""
    return [line for line in body.split(_END) if line] or [body]


def count_bodies(body: bytes) -> int:
    """Return how many bodies a message carries, without taking it apart, for a bound: it counts lines."""
    return body.count(_END) + 1


class Part:
    """One of the bodies of a delivery; settle it exactly once, as a delivery."""

    __slots__ = ("_bundle", "body")

    def __init__(self, bundle: "Bundle", body: bytes) -> None:
        """Make one; only `Bundle` does."""
        self._bundle = bundle
        self.body = body

    @property
    def routing_key(self) -> str:
        """With what its bundle was published."""
        return self._bundle.delivery.routing_key

    @property
    def correlation_id(self) -> str:
        """Empty: a bundle has no property for the job of each line."""
        return ""

    @property
    def returns(self) -> int:
        """How often the broker took its bundle back."""
        return self._bundle.delivery.returns

    def ack(self) -> None:
        """Tell that it is dealt with."""
        self._bundle.settled()

    async def requeue(self) -> None:
        """Give it back untouched: so its bundle is, as soon as the others are settled.

        Raises:
            DeliveryLost: the channel is gone; the broker requeues the message by itself.
        """
        await self._bundle.failed(self._bundle.delivery.requeue)

    async def refuse(self) -> None:
        """Give it back as failed: so its bundle is, as soon as the others are settled.

        Raises:
            DeliveryLost: the channel is gone; the broker requeues the message by itself.
        """
        await self._bundle.failed(self._bundle.delivery.refuse)


class Bundle:
    """A delivery that is settled when the last of its parts is: acknowledged, unless one was given back.

    Then all of it is delivered again, and parts that were dealt with are repeated.
    """

    def __init__(self, delivery: Delivery) -> None:
        """Take a delivery apart."""
        self.delivery = delivery
        self.parts = [Part(self, body) for body in bodies_of(delivery.body)]
        self._open = len(self.parts)
        self._give_back: Callable[[], Awaitable[None]] | None = None
        self._giving_back: asyncio.Future[None] | None = None

    def settled(self) -> None:
        """Note that a part is dealt with."""
        self._open -= 1
        if self._open:
            return
        if self._give_back is None:
            self.delivery.ack()
        else:
            self._giving_back = asyncio.ensure_future(self._give_all_back())

    async def failed(self, give_back: Callable[[], Awaitable[None]]) -> None:
        """Note that a part is given back, and how all of it is to be.

        Raises:
            DeliveryLost: the channel is gone.
        """
        self._give_back = give_back
        self._open -= 1
        if not self._open:
            await give_back()

    async def _give_all_back(self) -> None:
        assert self._give_back is not None
        try:
            await self._give_back()
        except DeliveryLost:
            logger.info("delivery_lost", extra={"parts": len(self.parts)})
