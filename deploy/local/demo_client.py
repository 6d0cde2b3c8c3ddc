"""What `make demo` asks of the running service, as any customer would, and of RabbitMQ."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import aio_pika
import httpx
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError

from deploy.local.demo_cases import RETRY, Case
from deploy.local.errors import LocalError
from deploy.local.stack import Stack
from producer.api.documents import Batch, Job, JobSummary
from shared.broker.topology import PARKED_QUEUE, delay_queue, lane_queues, work_queue
from shared.kinds.registry import Lane

HTTP_TIMEOUT_SECONDS = 10.0
AMQP_TIMEOUT_SECONDS = 5.0
QUEUES = (
    *lane_queues("check", Lane.BULK),
    work_queue("check", Lane.INTERACTIVE),
    work_queue("fetch", Lane.INTERACTIVE),
    *(delay_queue(step) for step in (1, 2, 3, 4)),
    PARKED_QUEUE,
)


@asynccontextmanager
async def open_client(stack: Stack) -> AsyncIterator["DemoClient"]:
    """Yield a client of the service, and close its connections afterwards.

    Raises:
        LocalError: RabbitMQ takes no connection.
    """
    # No proxies from the environment: everything is on this machine.
    async with httpx.AsyncClient(timeout=HTTP_TIMEOUT_SECONDS, trust_env=False) as http:
        try:
            amqp = await aio_pika.connect(stack.broker.amqp_url, timeout=AMQP_TIMEOUT_SECONDS)
        except (AMQPError, OSError, TimeoutError) as error:
            raise LocalError(f"RabbitMQ took no connection: {error!r}.") from error
        async with amqp:
            yield DemoClient(stack, http, amqp)


class DemoClient:
    """Speaks to the running service as a customer does, and to RabbitMQ's console."""

    def __init__(self, stack: Stack, http: httpx.AsyncClient, amqp: AbstractConnection) -> None:
        """Take the service and open connections to it; `open_client` makes all three fit."""
        self._stack = stack
        self._http = http
        self._amqp = amqp

    async def submit_urls(self, urls: Sequence[str]) -> Batch:
        """Hand in URLs to check, one a line."""
        answer = await self._ask("POST", "/batches", content="\n".join(urls), media_type="text/plain")
        return Batch.model_validate_json(answer)

    async def submit_cases(self, kind: str, cases: Sequence[Case]) -> Batch:
        """Hand in cases of one kind, in the lane that does not wait behind the many URLs."""
        document = {
            "kind": kind,
            "lane": Lane.INTERACTIVE,
            "retry": RETRY,
            "items": [dict(case.args) for case in cases],
        }
        answer = await self._ask("POST", "/batches", content=json.dumps(document))
        return Batch.model_validate_json(answer)

    async def batch(self, batch: Batch) -> Batch:
        """Return the batch as it is now."""
        return Batch.model_validate_json(await self._ask("GET", f"/batches/{batch.id}"))

    async def summaries(self, batch: Batch) -> list[JobSummary]:
        """Return the jobs of a batch in the order of its items, without attempts."""
        lines = (await self._ask("GET", f"/batches/{batch.id}/results")).splitlines()
        return [JobSummary.model_validate_json(line) for line in lines]

    async def jobs(self, batch: Batch) -> list[Job]:
        """Return the jobs of a batch in the order of its items."""
        return [await self.job(summary.id) for summary in await self.summaries(batch)]

    async def job(self, job_id: UUID) -> Job:
        """Return a job as it is now."""
        return Job.model_validate_json(await self._ask("GET", f"/jobs/{job_id}"))

    async def redrive(self, job: Job) -> Job:
        """Send a parked job back."""
        return Job.model_validate_json(await self._ask("POST", f"/jobs/{job.id}/redrive"))

    async def queue_lengths(self) -> dict[str, int]:
        """Return how many messages wait in each of `QUEUES` now; empty before they are declared."""
        try:
            # Asked of the broker itself: the management API can be five seconds behind. A channel for each
            # time, because asking for a queue that is not there yet closes it.
            async with asyncio.timeout(AMQP_TIMEOUT_SECONDS), self._amqp.channel() as channel:
                queues = [await channel.declare_queue(name, passive=True) for name in QUEUES]
        except (AMQPError, OSError, TimeoutError):
            return {}
        return {queue.name: queue.declaration_result.message_count or 0 for queue in queues}

    def insist_it_runs(self) -> None:
        """Raise a LocalError if the service has ended by itself."""
        if self._stack.ended() is not None:
            raise LocalError("the service ended by itself.")

    async def _ask(
        self, method: str, path: str, *, content: str | None = None, media_type: str = "application/json"
    ) -> str:
        headers = {"Content-Type": media_type} if content is not None else None
        try:
            answer = await self._http.request(
                method, f"{self._stack.api_url}{path}", content=content, headers=headers
            )
        except httpx.HTTPError as error:
            raise LocalError(
                f"{method} {path} had no answer ({type(error).__name__}): the service has ended or hangs."
            ) from error
        if answer.is_error:
            raise LocalError(f"{method} {path} answered {answer.status_code}: {answer.text[:500]}")
        return answer.text
