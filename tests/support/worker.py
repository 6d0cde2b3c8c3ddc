"""A worker whose handler the test holds in its hand, on a real broker."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from aio_pika.abc import AbstractChannel
from pydantic import BaseModel

from consumer.backlog import PutOffs, SlotAdmission
from consumer.control_streams import Cancellations, CurrentPauses
from consumer.delivery_handler import DeliveryHandler
from consumer.executor import BoundHandler, Executor
from consumer.metrics import WorkerMetrics
from consumer.plan import Plan
from consumer.politeness.admission import Admission
from consumer.politeness.host_limiters import FirstPermit, HostLimiters
from consumer.report_batcher import ReportBatcher
from consumer.rounds import Rounds
from consumer.worker import Worker
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import JOBS, RECORDER_QUEUE, stored_key
from shared.kinds.registry import Lane
from shared.messages import JobMessage, Report
from shared.outcomes import Outcome, Succeeded
from shared.settings import Settings
from tests.support.amqp import get_message

CHECKS = Plan(("check",))


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


class Gated:
    """A handler that notes what it starts; each job ends when its URL, or its ref, is let through."""

    def __init__(self, *open_urls: str) -> None:
        self.starts: list[str] = []
        self._open = set(open_urls)
        self._opened = asyncio.Condition()

    async def __call__(self, _: BaseModel, job: JobMessage, __: FirstPermit) -> Outcome:
        url = job.ref or job.args["url"]
        async with self._opened:
            self.starts.append(url)
            self._opened.notify_all()
            await self._opened.wait_for(lambda: url in self._open)
        return Succeeded({"url": url})

    async def let(self, *urls: str) -> None:
        async with self._opened:
            self._open.update(urls)
            self._opened.notify_all()

    async def until_started(self, count: int) -> None:
        async with asyncio.timeout(20), self._opened:
            await self._opened.wait_for(lambda: len(self.starts) >= count)


@asynccontextmanager
async def working(
    url: str,
    work: BoundHandler,
    *,
    grace_seconds: float = 0.0,
    gathers: bool = False,
    plan: Plan = CHECKS,
    name: str = "test worker",
) -> AsyncIterator[asyncio.Event]:
    """Run a worker while inside; setting the event yielded, or leaving, lets it drain."""
    worker = build_worker(url, work, grace_seconds=grace_seconds, gathers=gathers, plan=plan, name=name)
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await task


def build_worker(
    url: str,
    work: BoundHandler,
    *,
    grace_seconds: float = 0.0,
    gathers: bool = False,
    plan: Plan = CHECKS,
    name: str = "test worker",
    metrics: WorkerMetrics | None = None,
) -> Worker:
    """Return a worker that is not connected yet, with one handler for all its kinds."""
    settings = Settings(amqp_url=url, worker_grace_seconds=grace_seconds)
    publisher = Publisher(url, name=f"{name} publish", timeout_seconds=10)
    metrics = metrics or WorkerMetrics()
    cancellations = Cancellations(url, name=f"{name} cancellations")
    pauses = CurrentPauses(url, name=f"{name} pauses")
    slots_by_kind = plan.slots_by_kind(
        settings, is_paused=pauses.cover, tell=PutOffs(publisher, worker="w").tell
    )
    admission = Admission(HostLimiters(), prefetch_by_lane=plan.running_by_lane(settings))
    return Worker(
        settings=settings,
        plan=plan,
        handler=DeliveryHandler(
            executor=Executor(dict.fromkeys(plan.kinds, work)),
            admission=SlotAdmission(admission, slots_by_kind) if slots_by_kind else admission,
            publisher=publisher,
            reports=ReportBatcher(publisher) if gathers else None,
            cancellations=cancellations,
            metrics=metrics,
            worker="w",
        ),
        publisher=publisher,
        cancellations=cancellations,
        pauses=pauses,
        metrics=metrics,
        name=name,
        slots_by_kind=slots_by_kind,
        rounds=Rounds(every_seconds=plan.every_seconds) if plan.has_rounds else None,
    )


async def final_report(channel: AbstractChannel) -> Report:
    """Return the next report that is not of a job still running."""
    while (report := Report.decode((await get_message(channel, RECORDER_QUEUE)).body)).state == "running":
        pass
    return report


def job(number: int = 1, *, batch_id: UUID | None = None, run: int = 1, lane: Lane = Lane.BULK) -> Outgoing:
    message = JobMessage(
        batch_id=batch_id,
        run=run,
        id=uuid.uuid4(),
        kind="check",
        lane=lane,
        args={"url": f"http://example.com/{number}"},
    )
    return Outgoing(JOBS, stored_key("check", lane), message.encode(), "job", str(message.id))
