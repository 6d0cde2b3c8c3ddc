"""A stranger who may publish, knows the ids of our jobs, and means no good."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import aio_pika

from shared.broker.topology import DEAD, DELAY, JOBS, RESULTS, bundle_key
from tests.faults.fault import Fault
from tests.faults.own_jobs import call, submit, wait_until_done
from tests.faults.world import World, patiently
from tests.support.waiting import eventually

_SECONDS = 6.0
_ROUND_SECONDS = 0.25
_KNOWN_JOBS = 40
_TARGETS = 10
_BUNDLE_LINES = 20_000
_DONE_SECONDS = 60.0
_LAST_TIMES = ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00")
_NUMBERS = (0, -1, 999_999, 1_000_000, 2**31, 2**63, 2**64, 10**400, 1e308, "1", None, True)
_OUTCOMES = {
    "running": None,
    "succeeded": "succeeded",
    "parked": "failed_permanent",
    "cancelled": "cancelled",
}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Hostile:
    exchange: str
    key: str
    body: bytes
    type: str = "job"
    correlation_id: str = ""


async def forge(world: World, rng: random.Random) -> None:
    """Publish, all along, what contradicts our jobs, and what no number or time can hold."""
    open_batch = await submit(world, [("slow", f"{rng.getrandbits(64):016x}") for _ in range(_KNOWN_JOBS)])
    kept = [await _submit_one(world, f"{rng.getrandbits(64):016x}", delay_seconds=day) for day in (86_400, 0)]

    async def is_done() -> bool:
        return bool((await _read(world, kept[1]))["state"] == "succeeded")

    await eventually(is_done, deadline_seconds=_DONE_SECONDS)
    before = [await _read(world, job_id) for job_id in kept]
    await _publish_all_along(world, before, rng)
    await world.wait_ready()
    await wait_until_done(world, [open_batch], deadline_seconds=world.deadline_seconds)
    after = [await _read(world, job_id) for job_id in kept]
    assert after == before, f"a stranger was believed: {before} became {after}"
    await call(world, "POST", f"/jobs/{kept[0]}/cancel")


async def _publish_all_along(world: World, kept: list[Json], rng: random.Random) -> None:
    world.timeline.note("a stranger publishes hostile messages")
    await patiently(partial(_publish, world, [_bundle(rng)]))
    published, ends_at = 0, time.monotonic() + _SECONDS
    while time.monotonic() < ends_at:
        listed = (await call(world, "GET", f"/jobs?limit={_KNOWN_JOBS}"))["items"]
        known = [job for job in listed if _is_ours(job)]
        about = [*rng.sample(known, min(len(known), _TARGETS)), *kept]
        messages = [*(message for job in about for message in _forged(job, rng)), *_impossible(rng)]
        await patiently(partial(_publish, world, messages))
        published += len(messages)
        await asyncio.sleep(_ROUND_SECONDS)
    world.timeline.note(f"{published} hostile messages, and a bundle of {_BUNDLE_LINES} jobs, are published")


def _is_ours(job: Json) -> bool:
    """Return whether we published a job; what third parties publish, on the bulk lane, has no token."""
    return bool(job["batch_id"]) or job["lane"] == "interactive"


async def _submit_one(world: World, key: str, *, delay_seconds: int) -> str:
    """Submit a job for now or later; return its id."""
    body = {"kind": "fetch", "args": {"url": world.target.page("ok", key)}, "delay_seconds": delay_seconds}
    headers = {"Idempotency-Key": key}
    return str((await call(world, "POST", "/jobs", body=body, headers=headers))["id"])


async def _read(world: World, job_id: str) -> Json:
    """Return what a stranger must not change."""
    job = await call(world, "GET", f"/jobs/{job_id}")
    return {name: job[name] for name in ("id", "kind", "lane", "state", "run", "args", "attempts", "result")}


def _forged(job: Json, rng: random.Random) -> Iterator[_Hostile]:
    """Yield lies about a job."""
    kind, lane, run = job["kind"], job["lane"], job["run"]
    evil = {"url": "http://127.0.0.1:9/evil"}
    about = {"version": 1, "id": job["id"], "kind": kind, "lane": lane, "args": evil}
    for said in (run, rng.choice((run + 1, 1_000_000, *_NUMBERS))):
        for state in rng.sample(tuple(_OUTCOMES), 2):
            report = _report(job, run=said, state=state)
            yield _Hostile(RESULTS, f"{kind}.{lane}.{state}", _encoded(report), "report")
            yield _Hostile(RESULTS, f"{kind}.{lane}.{state}", _encoded(report | {"job": about}), "report")
            copy = about | {"run": said, "report": report}
            yield _Hostile(DEAD, f"{kind}.{lane}", _encoded(copy))
            yield _Hostile(DELAY, f"{kind}.{lane}.1s", _encoded(copy | {"attempt": 2}))
    yield _Hostile(DEAD, f"{kind}.{lane}", b"\x00 garbage", "raw", job["id"])
    yield _Hostile(RESULTS, f"{kind}.{lane}.parked", b"garbage", "report", job["id"])
    yield _Hostile("", "jobs.parked", b"garbage", "raw", job["id"])


def _report(job: Json, *, run: object, state: str) -> Json:
    now = "2026-01-01T00:00:00Z"
    ended = {"ended_at": now, "outcome": _OUTCOMES[state], "reason": "forged"} if state != "running" else {}
    common = {"version": 1, "job_id": job["id"], "kind": job["kind"], "run": run, "attempt": 999_999}
    return {
        **common,
        "state": state,
        "started_at": now,
        "worker": "stranger",
        "result": {"forged": 1},
        **ended,
    }


def _impossible(rng: random.Random) -> Iterator[_Hostile]:
    """Yield jobs of a stranger that hold what cannot be: numbers, times, sizes."""
    for field in ("run", "attempt", "deferrals", "returns"):
        yield _hostile_job({field: rng.choice(_NUMBERS)})
    for said in _LAST_TIMES:
        yield _hostile_job({"expires_at": said})
        yield _hostile_job({"turn_at": said})
    huge = {"max_attempts": 1_000, "first_delay_seconds": 86_400, "factor": 10, "max_delay_seconds": 86_400}
    yield _hostile_job({"retry": huge, "attempt": 999, "expires_at": _LAST_TIMES[0]})
    yield _hostile_job({"args": {"url": "http://127.0.0.1:9/", "timeout_seconds": 1e308}})
    yield _hostile_job({"batch_id": str(uuid.UUID(int=rng.getrandbits(128)))})


def _hostile_job(changes: Json) -> _Hostile:
    """Return a job with an id of its own that fails at once, with some changes."""
    body = {"version": 1, "id": str(uuid.uuid4()), "kind": "fetch", "lane": "bulk"}
    args = {"url": "http://127.0.0.1:9/", "timeout_seconds": 1}
    retry = {"max_attempts": 1}
    return _Hostile(JOBS, "fetch.bulk", _encoded({**body, "args": args, "retry": retry, **changes}))


def _bundle(rng: random.Random) -> _Hostile:
    """Return one message of very many jobs."""
    check = {"version": 1, "kind": "check", "lane": "bulk", "args": {"url": "http://127.0.0.1:9/"}}
    ids = (str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(_BUNDLE_LINES))
    lines = [_encoded({**check, "id": job_id}) for job_id in ids]
    return _Hostile(JOBS, bundle_key("check"), b"\n".join(lines), "jobs")


def _encoded(document: Json) -> bytes:
    return json.dumps(document).encode()


async def _publish(world: World, messages: list[_Hostile]) -> None:
    connection = await aio_pika.connect(world.amqp_url)
    async with connection, connection.channel() as channel:
        for each in messages:
            exchange = (
                await channel.get_exchange(each.exchange, ensure=False)
                if each.exchange
                else channel.default_exchange
            )
            message = aio_pika.Message(
                each.body, delivery_mode=2, type=each.type, correlation_id=each.correlation_id or None
            )
            await exchange.publish(message, each.key, timeout=10)


def stranger_faults() -> list[Fault]:
    """Return the faults of those who may publish and must not be believed."""
    return [
        Fault(
            "hostile messages about our jobs, all along",
            "stranger",
            "Nobody is believed about a stored job; what cannot be is put aside, and no process ends.",
            forge,
            False,
            spread_seconds=8.0,
            traces=("report_put_aside",),
        )
    ]
