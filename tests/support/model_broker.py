"""A model of the broker: the real topology as lists, whose messages a test loses, repeats, swaps and delays.

Its deliveries are real ones on a channel of the model, so whatever is read of a delivery is what a broker
says: redelivered or not, how often it came back, why it died.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pamqp.header import ContentHeader

from shared.broker.bundle import bodies_of
from shared.broker.delivery import AckGatherer, Delivery, Incoming, Settling
from shared.broker.outgoing import Outgoing, properties_of
from shared.broker.topology import DEFAULT, OUTCOMES, UNROUTED, QueueSpec, exchanges, queues
from shared.errors import MessageUnroutable
from shared.kinds.registry import KINDS

_ALTERNATES = {spec.name: spec.alternate for spec in exchanges()}


@dataclass(slots=True)
class Message:
    """A message in a queue."""

    outgoing: Outgoing
    entered_at: float
    returns: int = 0
    is_redelivered: bool = False
    deaths: list[dict[str, Any]] = field(default_factory=list)


class Channel:
    """A channel that messages are delivered on; once it is lost, settling does nothing, as on a real one."""

    def __init__(self, broker: "ModelBroker") -> None:
        """Open a channel."""
        self._broker = broker
        self._unacked: dict[int, tuple[str, Message]] = {}
        self._tag = 0
        # It stands for both halves of what a delivery settles on.
        self.settling = Settling(aiormq=cast("Any", self), acks=cast("AckGatherer", self))

    def deliver(self, queue: str, index: int = 0) -> Delivery:
        """Take a message out of a queue, and return its delivery."""
        message = self._broker.queues[queue].pop(index)
        self._tag += 1
        self._unacked[self._tag] = queue, message
        outgoing = message.outgoing
        headers = {**outgoing.headers, "x-delivery-count": message.returns, "x-death": message.deaths}
        if not message.deaths:
            del headers["x-death"]
        properties = properties_of(outgoing._replace(headers=cast("Any", headers)), "id")
        incoming = Incoming(
            self._tag,
            message.is_redelivered,
            outgoing.exchange,
            outgoing.routing_key,
            ContentHeader(0, len(outgoing.body), properties),
            outgoing.body,
        )
        return Delivery(incoming, self.settling, lambda: None)

    def lose(self) -> None:
        """Break: the broker takes back all that is not acked, and counts that."""
        for tag in sorted(self._unacked, reverse=True):
            self._take_back(tag)

    def ack(self, tag: int, on_sent: Callable[[], None]) -> None:
        """Take an ack, as `AckGatherer` does."""
        self._unacked.pop(tag, None)
        on_sent()

    def settled(self, tag: int) -> None:
        """Note what `AckGatherer` notes: nothing here."""

    async def basic_nack(self, tag: int, *, requeue: bool) -> None:
        """Take a message back."""
        assert requeue
        self._take_back(tag)

    async def basic_reject(self, tag: int, *, requeue: bool) -> None:
        """Take a message back, or dead-letter it."""
        if requeue:
            self._take_back(tag)
        elif tag in self._unacked:
            self._broker.dead_letter(*self._unacked.pop(tag), reason="rejected")

    def _take_back(self, tag: int) -> None:
        if tag in self._unacked:
            queue, message = self._unacked.pop(tag)
            self._broker.take_back(queue, message)


class ModelBroker:
    """Queues as lists of messages, a stream as a list of bodies, and what was published to `outcomes`."""

    def __init__(self) -> None:
        """Declare the topology."""
        self._specs: Mapping[str, QueueSpec] = {spec.name: spec for spec in queues(KINDS)}
        self._patterns = [
            (exchange, _pattern(key), name)
            for name, spec in self._specs.items()
            for exchange, key in spec.bindings
        ]
        self.queues: dict[str, list[Message]] = {
            name: [] for name, spec in self._specs.items() if spec.type != "stream"
        }
        self.streams: dict[str, list[bytes]] = {
            name: [] for name, spec in self._specs.items() if spec.type == "stream"
        }
        self.outcomes: list[Outgoing] = []
        self.taken_back: Counter[str] = Counter()
        """How often each job came back, by its id."""
        self.seconds = 0.0

    def publish(self, outgoing: Outgoing, *, deaths: list[dict[str, Any]] | None = None) -> None:
        """Store a message in every queue that its exchange binds for its key.

        Raises:
            MessageUnroutable: there is none, and the message is mandatory.
        """
        if outgoing.exchange == OUTCOMES:
            self.outcomes.append(outgoing)
            return
        if outgoing.exchange == DEFAULT and outgoing.routing_key in self.streams:
            self.streams[outgoing.routing_key].append(outgoing.body)
            return
        names = self._route(outgoing)
        if not names:
            raise MessageUnroutable(f"{outgoing.exchange} has no queue for {outgoing.routing_key}")
        for name in names:
            self.queues[name].append(Message(outgoing, self.seconds, deaths=deaths or []))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and bring home what has waited long enough, queue by queue from its head."""
        self.seconds += seconds
        for name, messages in self.queues.items():
            ttl_seconds = int(self._specs[name].arguments.get("x-message-ttl", 0)) / 1_000
            while ttl_seconds and messages and messages[0].entered_at + ttl_seconds <= self.seconds:
                self.dead_letter(name, messages.pop(0), reason="expired")

    def take_back(self, queue: str, message: Message) -> None:
        """Put a message that was delivered back to the head of its queue; dead-letter it after its limit."""
        returned = replace(message, returns=message.returns + 1, is_redelivered=True)
        if queue.startswith("jobs."):
            self.taken_back.update(str(json.loads(body)["id"]) for body in bodies_of(message.outgoing.body))
        limit = int(self._specs[queue].arguments.get("x-delivery-limit", 0))
        if returned.returns > limit:
            self.dead_letter(queue, returned, reason="delivery_limit")
        else:
            self.queues[queue].insert(0, returned)

    def dead_letter(self, queue: str, message: Message, *, reason: str) -> None:
        """Publish a message to the dead-letter exchange of its queue, with what a broker notes on it."""
        arguments = self._specs[queue].arguments
        outgoing = message.outgoing._replace(
            exchange=str(arguments["x-dead-letter-exchange"]),
            routing_key=str(arguments.get("x-dead-letter-routing-key", message.outgoing.routing_key)),
        )
        death = {
            "queue": queue,
            "reason": reason,
            "count": 1,
            "exchange": message.outgoing.exchange,
            "routing-keys": [message.outgoing.routing_key],
        }
        self.publish(outgoing, deaths=[death, *message.deaths])

    def ready(self) -> dict[str, int]:
        """Return how many messages each queue has to deliver."""
        return {name: len(messages) for name, messages in self.queues.items()}

    def _route(self, outgoing: Outgoing) -> list[str]:
        exchange, key = outgoing.exchange, outgoing.routing_key
        if exchange == DEFAULT:
            return [key] if key in self.queues else []
        names = {
            name for source, pattern, name in self._patterns if source == exchange and pattern.fullmatch(key)
        }
        if not names and _ALTERNATES[exchange] == UNROUTED:
            return self._route(outgoing._replace(exchange=UNROUTED))
        return sorted(names)


def _pattern(key: str) -> re.Pattern[str]:
    """Return what a binding key of a topic exchange matches, where `#` is any number of words."""
    text = re.escape(key)
    for wildcard, words in ((r"\.\#", r"(\..+)?"), (r"\#\.", r"(.+\.)?"), (r"\#", ".*")):
        text = text.replace(wildcard, words)
    return re.compile(text)
