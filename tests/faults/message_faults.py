"""Messages that nobody can read, and a job that kills every worker that takes it."""

import asyncio
import hashlib
import json
import random
from collections import Counter
from functools import partial
from typing import Any
from uuid import UUID

import aio_pika
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from shared.broker.bundle import bodies_of
from shared.broker.topology import bundle_key
from shared.errors import MessageUndecodable
from shared.messages import JobMessage, Report
from tests.faults.fault import Fault
from tests.faults.world import World, http_client, patiently
from tests.support.waiting import eventually

_MESSAGES = 120
_OVERSIZED_BYTES = 3_000_000
# Twenty returns are allowed; then the broker gives the job up.
_MOST_KILLS = 30
_BUNDLE_KEY = bundle_key("check")

Json = dict[str, Any]


def _document(job_id: UUID) -> Json:
    args = {"url": "http://127.0.0.1:9/"}
    return {"version": 1, "id": str(job_id), "kind": "fetch", "lane": "bulk", "args": args}


def _encoded(document: Json, changes: Json) -> bytes:
    return json.dumps({**document, **changes}).encode()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_jobs = st.uuids().map(_document)
_fields = st.sampled_from(("version", "id", "kind", "lane", "args", "retry", "run", "attempt", "report"))
_bodies = st.one_of(
    st.binary(max_size=2_000),
    _json.map(lambda value: json.dumps(value).encode()),
    # A job of which one field is anything.
    st.builds(_encoded, _jobs, st.tuples(_fields, _json).map(lambda field: dict([field]))),
    # One of a version that is not yet.
    st.builds(_encoded, _jobs, st.integers(2, 9).map(lambda version: {"version": version})),
    # An envelope far larger than any of ours.
    st.builds(_encoded, _jobs, st.just({"kind": "x" * _OVERSIZED_BYTES})),
)
_places = st.sampled_from(
    (
        ("jobs", "fetch.bulk"),
        ("jobs", "check.interactive.stored"),
        ("jobs", _BUNDLE_KEY),
        ("jobs.delay", "fetch.bulk.1s"),
        ("results", "fetch.bulk.succeeded"),
        ("results.large", "fetch.bulk.succeeded"),
    )
)
_types = st.sampled_from(("job", "jobs", "report", "reports", "raw", "nonsense"))


def _draw(number: int) -> list[tuple[tuple[str, str], bytes, str]]:
    """Return messages, the same for the same seed."""
    drawn: list[tuple[tuple[str, str], bytes, str]] = []

    @seed(number)
    @settings(
        max_examples=_MESSAGES,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(_places, _bodies, _types)
    def collect(place: tuple[str, str], body: bytes, type_: str) -> None:
        drawn.append((place, body, type_))

    collect()
    return drawn


def _taken_apart(key: str, message: bytes) -> list[bytes]:
    """Return what is parked by itself of a message: of one with several jobs, each line."""
    return bodies_of(message) if key == _BUNDLE_KEY else [message]


def _is_readable(exchange: str, body: bytes) -> bool:
    try:
        (Report if exchange.startswith("results") else JobMessage).decode(body)
    except MessageUndecodable:
        return False
    return True


async def publish_nonsense(world: World, rng: random.Random) -> None:
    """Publish what hypothesis makes up, everywhere; all that is unreadable must be parked, byte for byte."""
    messages = _draw(rng.randrange(2**32))
    world.timeline.note(f"publish {len(messages)} malformed, oversized, newer and binary messages")
    await patiently(partial(_publish, world, messages))
    unreadable = Counter(
        _digest(body)
        for (exchange, key), message, _ in messages
        for body in _taken_apart(key, message)
        if not _is_readable(exchange, body)
    )

    async def missing() -> int:
        # At least once: a copy may be parked twice, never less than it came.
        return (unreadable - await patiently(partial(_parked, world))).total()

    async def none_is_missing() -> bool:
        return not await missing()

    try:
        await eventually(none_is_missing, deadline_seconds=60)
    except AssertionError:
        world.timeline.note(f"{await missing()} of {unreadable.total()} unreadable messages are missing")
        raise
    world.timeline.note(f"{unreadable.total()} of them are parked, byte for byte")


async def _publish(world: World, messages: list[tuple[tuple[str, str], bytes, str]]) -> None:
    """Publish each message; when the broker goes away in the middle, all come again."""
    connection = await aio_pika.connect(world.amqp_url)
    async with connection, connection.channel(on_return_raises=True) as channel:
        for (exchange_name, key), body, type_ in messages:
            exchange = await channel.get_exchange(exchange_name, ensure=False)
            await exchange.publish(aio_pika.Message(body, delivery_mode=2, type=type_), key, timeout=10)


async def _parked(world: World) -> Counter[str]:
    """Return the digests of all bodies in the parking queue; they go back when the channel closes."""
    digests: Counter[str] = Counter()
    connection = await aio_pika.connect(world.amqp_url)
    async with connection, connection.channel() as channel:
        queue = await channel.declare_queue("jobs.parked", passive=True)
        while (message := await queue.get(no_ack=False, fail=False)) is not None:
            digests[_digest(message.body)] += 1
    return digests


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def poison(world: World, rng: random.Random) -> None:
    """Hand in a job that kills its worker whenever it is taken; it must be parked as `worker_crashed`."""
    key = f"poison-{rng.getrandbits(64):016x}"
    body = {"kind": "fetch", "args": {"url": world.target.page("poison", key), "timeout_seconds": 60}}
    async with http_client(world) as http:
        job_id = (await http.post("/jobs", json=body)).json()["id"]
        killing = asyncio.create_task(_kill_whoever_asks(world, key))
        try:

            async def is_parked() -> Json | None:
                job = (await http.get(f"/jobs/{job_id}")).json()
                return job if job["state"] == "parked" else None

            job = await eventually(is_parked, deadline_seconds=120)
        finally:
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
    world.timeline.note(f"poison parked as {job['reason']} after {len(world.target.effects[key])} kills")
    assert job["reason"] == "worker_crashed"
    await world.wait_ready()


async def _kill_whoever_asks(world: World, key: str) -> None:
    workers = {worker.name: worker for worker in world.workers}
    for kills in range(_MOST_KILLS):
        effect = await world.target.wait_for_effects(key, more_than=kills)
        workers[effect.worker].kill()


def message_faults() -> list[Fault]:
    """Return the faults of messages."""
    return [
        Fault(
            "malformed, oversized, newer and binary messages",
            # Whoever deletes a queue takes along what nobody can read, and nobody knows of it.
            "queues",
            "What nobody can read is parked as it came; everything else goes on.",
            publish_nonsense,
            False,
            traces=("message_undecodable",),
        ),
        Fault(
            "a job that kills every worker",
            "worker",
            "After twenty deaths it is parked as worker_crashed; jobs beside it end.",
            poison,
            True,
            is_mixed=False,
        ),
    ]
