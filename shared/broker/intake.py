"""What comes on a subscription: handed on up to a limit, and given back when the subscription is held."""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from shared.broker.delivery import Delivery, Settling
from shared.broker.tap import Incoming
from shared.errors import DeliveryLost

logger = logging.getLogger(__name__)


class Intake:
    """Hands deliveries on, never more than `limit` at once over all channels of a subscription.

    A channel has that limit of its own, as its prefetch. But after a hold or a renewal, deliveries of the
    channel before may still be in hand when the next one begins; what is above the limit then waits here.
    """

    def __init__(self, limit: int, take: Callable[[Delivery], None]) -> None:
        """Make an open intake that has seen nothing yet."""
        self._limit = limit
        self._take = take
        self._in_hand = 0
        self._in_hand_by_channel: Counter[Settling] = Counter()
        self._waiting: deque[tuple[Settling, Incoming]] = deque()
        self._is_open = True
        self._is_giving_back = False
        self._returning: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()
        self._heard_at = time.monotonic()

    @property
    def quiet_seconds(self) -> float:
        """How long it has heard nothing from the broker although it could: a full one cannot."""
        return 0.0 if self._is_full else time.monotonic() - self._heard_at

    @property
    def in_hand(self) -> int:
        """How many deliveries are handed on and not settled."""
        return self._in_hand

    def hear(self) -> None:
        """Note that the broker has just shown that it knows the consumer."""
        self._heard_at = time.monotonic()

    def open(self) -> None:
        """Hand on what comes from now on."""
        self._is_open, self._is_giving_back = True, False

    def shut(self) -> None:
        """Hand on nothing more; what comes is kept until `give_back`."""
        self._is_open = False

    async def give_back(self) -> None:
        """Requeue what was not handed on, and what still comes. Call it when the consumer is cancelled.

        Before that, the broker would deliver it to the same consumer at once; and until RabbitMQ 4.3 every
        requeue counts towards the delivery limit.
        """
        self._is_giving_back = True
        waiting, self._waiting = list(self._waiting), deque()
        for channel, message in waiting:
            await _requeue(channel, message)

    def forget(self) -> None:
        """Drop what was not handed on: its channel is gone, and the broker delivers it again."""
        self._is_open = False
        self._waiting.clear()

    def receive(self, channel: Settling, message: Incoming) -> None:
        """Take a message that came on a channel."""
        self.hear()
        if self._is_giving_back:
            task = asyncio.create_task(_requeue(channel, message))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)
            return
        self._waiting.append((channel, message))
        self._hand_on()

    async def wait_settled(self, channel: Settling) -> None:
        """Return when nothing that came on the channel is in hand."""
        while self._in_hand_by_channel[channel]:
            self._settled.clear()
            await self._settled.wait()

    @property
    def _is_full(self) -> bool:
        return self._in_hand >= self._limit

    def _hand_on(self) -> None:
        while self._is_open and self._waiting and not self._is_full:
            channel, message = self._waiting.popleft()
            self._in_hand += 1
            self._in_hand_by_channel[channel] += 1
            self._take(Delivery(message, channel, partial(self._on_settled, channel)))

    def _on_settled(self, channel: Settling) -> None:
        if self._is_full:
            # From now on it could hear something.
            self.hear()
        self._in_hand -= 1
        self._in_hand_by_channel[channel] -= 1
        if not self._in_hand_by_channel[channel]:
            del self._in_hand_by_channel[channel]
        self._settled.set()
        self._hand_on()


async def _requeue(channel: Settling, message: Incoming) -> None:
    delivery = Delivery(message, channel, lambda: None)
    try:
        await delivery.requeue()
    except DeliveryLost:
        logger.debug("delivery_lost", extra={"job_id": delivery.correlation_id})
