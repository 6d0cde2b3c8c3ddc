"""A worker whose handler the test holds in its hand, on a real broker."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from aio_pika.abc import AbstractChannel
from pydantic import BaseModel

from consumer.control_streams import Cancellations, CurrentPauses
from consumer.delivery_handler import DeliveryHandler
from consumer.executor import BoundHandler, Executor
from consumer.metrics import WorkerMetrics
from consumer.politeness.admission import Admission
from consumer.politeness.host_limiters import FirstPermit, HostLimiters
from consumer.report_batcher import ReportBatcher
from consumer.worker import Worker, prefetch_by_lane
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import JOBS, RECORDER_QUEUE, stored_key
from shared.kinds.registry import Lane
from shared.messages import JobMessage, Report
from shared.outcomes import Outcome, Succeeded
from shared.settings import Settings
from tests.support.amqp import get_message


@dataclass
class Work:
    """A handler that counts its starts and ends when it is let go."""

    starts: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, _: BaseModel, __: JobMessage, ___: FirstPermit) -> Outcome:
        self.starts += 1
        self.started.set()
        await self.let_go.wait()
        return Succeeded({"starts": self.starts})


@asynccontextmanager
async def working(
    url: str, work: BoundHandler, *, grace_seconds: float = 0.0, gathers: bool = False
) -> AsyncIterator[asyncio.Event]:
    """Run a worker while inside; setting the event yielded, or leaving, lets it drain."""
    settings = Settings(amqp_url=url, worker_grace_seconds=grace_seconds)
    publisher = Publisher(url, name="test worker publish", timeout_seconds=10)
    metrics = WorkerMetrics()
    executor = Executor({"check": work})
    cancellations = Cancellations(url, name="test worker cancellations")
    worker = Worker(
        settings=settings,
        kinds=["check"],
        handler=DeliveryHandler(
            executor=executor,
            admission=Admission(HostLimiters(), prefetch_by_lane=prefetch_by_lane(settings)),
            publisher=publisher,
            reports=ReportBatcher(publisher) if gathers else None,
            cancellations=cancellations,
            metrics=metrics,
            worker="w",
        ),
        publisher=publisher,
        cancellations=cancellations,
        pauses=CurrentPauses(url, name="test worker pauses"),
        metrics=metrics,
        name="test worker",
    )
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await task


async def final_report(channel: AbstractChannel) -> Report:
    """Return the next report that is not of a job still running."""
    while (report := Report.decode((await get_message(channel, RECORDER_QUEUE)).body)).state == "running":
        pass
    return report


def job(number: int = 1, *, batch_id: UUID | None = None, run: int = 1) -> Outgoing:
    message = JobMessage(
        batch_id=batch_id,
        run=run,
        id=uuid.uuid4(),
        kind="check",
        lane=Lane.BULK,
        args={"url": f"http://example.com/{number}"},
    )
    return Outgoing(JOBS, stored_key("check", Lane.BULK), message.encode(), "job", str(message.id))
