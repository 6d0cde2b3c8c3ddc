"""Virtual hosts for tests, emptied and used again: making and deleting all queues costs the broker most.

An emptied one has our exchanges, queues and bindings and nothing else: no message, consumer or connection.
"""

import asyncio
import json
import time
import uuid
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import aio_pika
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from aiormq.abc import AbstractChannel

from shared.broker.topology import exchanges, queues
from shared.kinds.registry import KINDS
from tests.support.management import Management

_CLOSING_SECONDS: Final = 3.0
_SETTLING_SECONDS: Final = 20.0
_SPECS: Final = queues(KINDS)
_QUORUM_QUEUES: Final = [spec.name for spec in _SPECS if spec.type == "quorum"]
# They cannot be emptied, so they are deleted, and declared by whoever needs them.
_STREAMS: Final = [spec.name for spec in _SPECS if spec.type == "stream"]

Json = Mapping[str, Any]


class VirtualHosts:
    """Makes virtual hosts on a broker, and keeps those that can be used again."""

    def __init__(self, amqp_url: str, management: Management) -> None:
        """Take the broker's AMQP address, whatever its virtual host, and its management API."""
        self._server_url = amqp_url.rpartition("/")[0]
        self._management = management
        # The first one in is the first one out: what was on its way in there has arrived by then.
        self._emptied: deque[str] = deque()

    def url(self, name: str) -> str:
        """Return the AMQP address of a virtual host."""
        return f"{self._server_url}/{name}"

    def take(self) -> str:
        """Return the name of a virtual host in which nothing waits; it may have our queues."""
        while self._emptied:
            name = self._emptied.popleft()
            if _succeeds(self._is_empty(name)):
                return name
            self.delete(name)
        return self.make()

    def make(self) -> str:
        """Return the name of a new virtual host, which has no queues."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self._management.create_vhost(name)
        return name

    def give_back(self, name: str) -> None:
        """Empty a virtual host for another test; one that is in use or was altered is deleted."""
        if self._is_left(name) and self._is_unaltered(name) and _succeeds(self._empty(name)):
            self._emptied.append(name)
        else:
            self.delete(name)

    def delete(self, name: str) -> None:
        """Delete a virtual host with all that is in it; its connections are closed."""
        self._management.delete_vhost(name)

    def close(self) -> None:
        """Delete those that were kept."""
        while self._emptied:
            self.delete(self._emptied.popleft())

    def _is_left(self, name: str) -> bool:
        """Return whether nobody is connected, waiting a moment for those that are leaving."""
        ends_at = time.monotonic() + _CLOSING_SECONDS
        while self._management.connection_names(name):
            if time.monotonic() > ends_at:
                return False
            time.sleep(0.02)
        return True

    def _is_unaltered(self, name: str) -> bool:
        found = set(_objects_found(self._management.definitions(name)))
        return {thing for thing in found if thing[1] not in _STREAMS} == set(_objects_declared())

    async def _is_empty(self, name: str) -> bool:
        """Return whether every queue is there, without a message and without a consumer."""
        async with await aio_pika.connect(self.url(name)) as connection:
            channel = await (await connection.channel()).get_underlay_channel()
            return not any([await _in_use(channel, queue) for queue in _QUORUM_QUEUES])

    async def _empty(self, name: str) -> bool:
        """Take out what waits; return whether nobody consumes."""
        async with await aio_pika.connect(self.url(name)) as connection:
            channel = await (await connection.channel()).get_underlay_channel()
            for queue in _QUORUM_QUEUES:
                if await _in_use(channel, queue):
                    await channel.queue_purge(queue)
            for stream in _STREAMS:
                await channel.queue_delete(stream)
            return not any([await _in_use(channel, queue) for queue in _QUORUM_QUEUES])


async def _in_use(channel: AbstractChannel, queue: str) -> bool:
    """Return whether a queue has messages that are ready, or consumers.

    Raises:
        ChannelNotFoundEntity: there is no such queue.
    """
    declared = await channel.queue_declare(queue, passive=True)
    return bool(declared.message_count or declared.consumer_count)


def _succeeds(work: Coroutine[Any, Any, bool]) -> bool:
    """Return what a coroutine gives, run on a loop of its own; False if the broker does not answer well."""

    async def in_time() -> bool:
        async with asyncio.timeout(_SETTLING_SECONDS):
            return await work

    # In a thread of its own, because the fixture's belongs to the loop of the tests.
    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(asyncio.run, in_time()).result()
        except (AMQPError, ChannelInvalidStateError, OSError, RuntimeError, TimeoutError):
            return False


def _objects_found(definitions: Json) -> Iterator[tuple[str, str, str]]:
    """Yield what there is, as (what, name, how it was declared)."""
    for exchange in definitions["exchanges"]:
        yield "exchange", exchange["name"], _as_text(exchange["arguments"])
    for queue in definitions["queues"]:
        yield "queue", queue["name"], _as_text(queue["arguments"])
    for binding in definitions["bindings"]:
        yield "binding", binding["destination"], f"{binding['source']} {binding['routing_key']}"
    for policy in (*definitions["policies"], *definitions["parameters"]):
        yield "policy", policy["name"], _as_text(policy)


def _objects_declared() -> Iterator[tuple[str, str, str]]:
    """Yield what our topology has, but for streams, in the same way."""
    for exchange in exchanges():
        alternate = {"alternate-exchange": exchange.alternate} if exchange.alternate else {}
        yield "exchange", exchange.name, _as_text(alternate)
    for queue in _SPECS:
        if queue.name not in _STREAMS:
            yield "queue", queue.name, _as_text({"x-queue-type": queue.type, **queue.arguments})
            yield from (("binding", queue.name, f"{exchange} {key}") for exchange, key in queue.bindings)


def _as_text(arguments: Json) -> str:
    return json.dumps(arguments, sort_keys=True)
