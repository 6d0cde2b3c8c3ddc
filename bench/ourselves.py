"""Retriever as a contender: its real worker, on its real queue, with jobs as the relay publishes them."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aio_pika
from aio_pika import DeliveryMode, Message

from bench.system import worker_environment
from bench.works import Place, Role, Work
from shared.broker.bundle import NDJSON, bundled
from shared.broker.topology import JOBS, RECORDER_QUEUE, bundle_key, bundle_queue
from shared.kinds.registry import Lane
from shared.messages import JOBS_TYPE, JobMessage

_KIND = "check"
_IN_HAND = 200
_BUNDLE_JOBS = 10
# A no-op's arguments must be valid too.
_NOWHERE = "http://127.0.0.1"


@dataclass(frozen=True, slots=True)
class Retriever:
    """One worker process with 200 jobs in hand, as the peers have: twenty messages of ten jobs, as is usual.

    Egress guard on, limits of hosts off, every report confirmed in `results` before its message is acked.
    """

    python: str
    jobs_per_second: Mapping[Work, int]
    name: str = "Retriever"
    role: Role = Role.OURS
    queue: str = bundle_queue(_KIND)
    results_queue: str | None = RECORDER_QUEUE
    jobs_per_message: int = _BUNDLE_JOBS

    async def fill(self, place: Place, jobs: int) -> None:
        """Publish so many jobs, persistent and confirmed."""
        connection = await aio_pika.connect(place.amqp_url)
        async with connection, connection.channel() as channel:
            exchange = await channel.get_exchange(JOBS, ensure=False)
            for first in range(0, jobs, _IN_HAND):
                numbers = range(first, min(first + _IN_HAND, jobs))
                bodies = [_body(place.url, number) for number in numbers]
                starts = range(0, len(bodies), _BUNDLE_JOBS)
                messages = [_message(bodies[start : start + _BUNDLE_JOBS]) for start in starts]
                await asyncio.gather(*(exchange.publish(each, bundle_key(_KIND)) for each in messages))

    def command(self, place: Place) -> Sequence[str]:
        """Return the command line of its worker; of a no-op, the one whose check asks nobody."""
        module = "bench.noop_worker" if place.work is Work.NOOP else "consumer"
        return [self.python, "-m", module, "worker", "--kinds", _KIND]

    def environment(self, place: Place) -> Mapping[str, str]:
        """Return the variables of its worker."""
        ours = {"WORKER_BULK_PREFETCH": _IN_HAND, "BUNDLE_JOBS": _BUNDLE_JOBS}
        told = {f"RETRIEVER_{name}": str(value) for name, value in ours.items()}
        return {**worker_environment(place.amqp_url), **told}


def _message(bodies: Sequence[bytes]) -> Message:
    return Message(
        bundled(bodies),
        message_id=str(uuid.uuid4()),
        type=JOBS_TYPE,
        content_type=NDJSON,
        delivery_mode=DeliveryMode.PERSISTENT,
    )


def _body(url: str, number: int) -> bytes:
    # Each another page of the one site, as in life.
    args = {"url": f"{url or _NOWHERE}/{number}", "method": "GET"}
    return JobMessage(id=uuid.uuid4(), kind=_KIND, lane=Lane.BULK, args=args).encode()
