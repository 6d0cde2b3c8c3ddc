"""Jobs handed in by every way there is, while faults happen, and a ledger of those that were acknowledged."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aio_pika
import httpx
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from yarl import URL

from shared.identity import new_id
from tests.faults.world import SILENCE_SECONDS, World, http_client

QUICK_RETRY = {
    "max_attempts": 5,
    "first_delay_seconds": 1,
    "factor": 1,
    "max_delay_seconds": 1,
    "jitter": False,
}
PAGES = ("ok", "ok", "slow", "flaky")
_AGAIN_SECONDS = 0.2
_DIRECT_SHARE, _BATCH_SHARE = 0.08, 0.5
# One answer may be lost with its process; each asks again, with the same key, until it has one.
_CLIENTS = 4

Json = dict[str, Any]


@dataclass(slots=True)
class Task:
    """One job as its client knows it; acknowledged when it has an id."""

    key: str
    kind: str
    page: str
    expected: str = "succeeded"
    job_id: str | None = None


@dataclass(slots=True)
class Batch:
    """One batch as its client knows it; acknowledged when it has an id."""

    key: str
    tasks: list[Task]
    batch_id: str | None = None


@dataclass(slots=True)
class Workload:
    """Some jobs: half of them checks in two batches, some straight into the broker, the rest one by one."""

    world: World
    name: str
    random: random.Random
    jobs: int
    spread_seconds: float
    pages: tuple[str, ...] = PAGES
    has_third_parties: bool = True
    singles: list[Task] = field(default_factory=list)
    directs: list[Task] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    server_errors: list[str] = field(default_factory=list)
    """Answers that no client should ever get."""

    @property
    def tasks(self) -> list[Task]:
        """All jobs."""
        return [*self.singles, *self.directs, *(task for batch in self.batches for task in batch.tasks)]

    async def run(self) -> None:
        """Hand everything in; returns when all of it is acknowledged."""
        directs = max(1, round(self.jobs * _DIRECT_SHARE)) if self.has_third_parties else 0
        batched = round(self.jobs * _BATCH_SHARE)
        self.directs = [self._task("fetch") for _ in range(directs)]
        self.batches = [
            Batch(self._key(), [self._check() for _ in range(size)])
            for size in (batched - batched // 2, batched // 2)
        ]
        self.singles = [
            self._task(self.random.choice(("fetch", "fetch", "check")))
            for _ in range(self.jobs - directs - batched)
        ]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish_directs())
            for number, batch in enumerate(self.batches):
                group.create_task(self._submit_batch(batch, after_seconds=number * self.spread_seconds * 0.6))
            for number in range(_CLIENTS):
                group.create_task(self._submit_singles(self.singles[number::_CLIENTS], api=number % 2))

    async def wait_under_way(self, share: float = 0.15) -> None:
        """Return once a share of the jobs has been seen at the target."""
        target = self.world.target

        def is_under_way() -> bool:
            return sum(bool(target.effects.get(task.key)) for task in self.tasks) >= share * self.jobs

        async with target.news:
            await target.news.wait_for(is_under_way)

    def _key(self) -> str:
        return f"{self.name}-{self.random.getrandbits(64):016x}"

    def _task(self, kind: str) -> Task:
        # A check asks twice of a page that fails, so only pages that do not are given to it.
        return Task(self._key(), kind, self.random.choice(self.pages) if kind == "fetch" else "ok")

    def _check(self) -> Task:
        # With GET it asks once, whatever the page does.
        return Task(self._key(), "check", self.random.choice(self.pages))

    def _url(self, task: Task) -> str:
        return self.world.target.page(task.page, task.key)

    async def _submit_singles(self, tasks: list[Task], *, api: int) -> None:
        pause = self.spread_seconds / max(1, len(tasks))
        async with http_client(self.world, api=api) as http:
            for task in tasks:
                body = {"kind": task.kind, "args": {"url": self._url(task)}, "retry": QUICK_RETRY}
                answer = await self._until_accepted(partial(self._post, http, "/jobs", body, task.key))
                task.job_id = answer["id"]
                await asyncio.sleep(pause * self.random.uniform(0.5, 1.5))

    async def _submit_batch(self, batch: Batch, *, after_seconds: float) -> None:
        await asyncio.sleep(after_seconds)
        body = {
            "kind": "check",
            "lane": "bulk",
            "retry": QUICK_RETRY,
            "callback_url": self.world.target.hook(batch.key),
            "items": [{"url": self._url(task), "method": "GET"} for task in batch.tasks],
        }
        async with http_client(self.world, api=0) as http:
            answer = await self._until_accepted(partial(self._post, http, "/batches", body, batch.key))
        batch.batch_id = answer["id"]

    async def _post(self, http: httpx.AsyncClient, path: str, body: Json, key: str) -> httpx.Response:
        return await http.post(path, json=body, headers={"Idempotency-Key": key})

    async def _until_accepted(self, post: Callable[[], Awaitable[httpx.Response]]) -> Json:
        while True:
            try:
                answer = await post()
            except httpx.TransportError:
                pass
            else:
                if answer.status_code == 202:
                    return dict(answer.json())
                # 503 is an honest answer without a store, 409 of an API that is at this very request.
                if answer.status_code not in {409, 503}:
                    self.server_errors.append(f"{answer.status_code}: {answer.text[:200]}")
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _publish_directs(self) -> None:
        for task in self.directs:
            job_id = str(new_id())
            body = {"version": 1, "id": job_id, "kind": "fetch", "lane": "bulk", "retry": QUICK_RETRY}
            encoded = json.dumps({**body, "args": {"url": self._url(task)}}).encode()
            while not await self._publish_once(encoded, job_id):
                await asyncio.sleep(_AGAIN_SECONDS)
            task.job_id = job_id

    async def _publish_once(self, body: bytes, job_id: str) -> bool:
        """Publish a job as a third party does; return whether the broker has confirmed it.

        The time is long enough for a slow machine: what is published again runs again, by whoever takes it.
        """
        for url in self.world.listener.urls:
            is_confirmed = False
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    connection = await aio_pika.connect(str(URL(url).update_query(name="third party")))
                    async with connection:
                        channel = await connection.channel(on_return_raises=True)
                        exchange = await channel.get_exchange("jobs", ensure=False)
                        message = aio_pika.Message(body, delivery_mode=2, correlation_id=job_id, type="job")
                        await exchange.publish(message, "fetch.bulk", mandatory=True)
                        is_confirmed = True
            except (AMQPError, ChannelInvalidStateError, OSError, TimeoutError, RuntimeError):
                pass
            except asyncio.CancelledError:
                # A connection torn down by its own side cancels what waits on it.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
            if is_confirmed:
                return True
        return False
