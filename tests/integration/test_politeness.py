"""A worker on a real broker with real requests: a busy host keeps its limits, and holds up nobody else."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from aiohttp import web

from consumer.bootstrap import run_worker
from consumer.plan import Plan
from producer.ledger.reports import parse_delivery
from shared.broker.delivery import Delivery
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.subscriber import Subscriber, Subscription
from shared.broker.topology import JOBS, RECORDER_QUEUE, stored_key
from shared.clock import utc_now
from shared.kinds.registry import Lane
from shared.messages import JobMessage, Report
from shared.outcomes import OutcomeName
from shared.settings import Settings
from shared.states import JobState
from tests.support.amqp import running, running_publisher
from tests.support.dns import dns_server

HOT = "127.0.0.1"
HOT_JOBS = 250
HOT_AT_ONCE, HOT_PER_SECOND = 4, 20
HOT_NAMES = 300
NAMES_AT_ONCE, NAMES_PER_SECOND = 6, 30
OTHER_HOSTS = [f"127.0.1.{number}" for number in range(1, 101)]
OTHERS_OF_A_LANE = 150


@dataclass
class Site:
    """One listener that is many hosts; it counts who comes to the hot one, or to a name of it, and when."""

    port: int = 0
    hot_at: list[float] = field(default_factory=list)
    hot_now: int = 0
    hot_at_once: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        """Answer after a moment, as hosts do."""
        if request.url.host in OTHER_HOSTS:
            await asyncio.sleep(0.05)
            return web.Response()
        self.hot_at.append(time.monotonic())
        self.hot_now += 1
        self.hot_at_once = max(self.hot_at_once, self.hot_now)
        await asyncio.sleep(0.1)
        self.hot_now -= 1
        return web.Response()


@asynccontextmanager
async def open_site() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application()
    app.router.add_get("/{rest:.*}", site.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    site.port = runner.addresses[0][1]
    try:
        yield site
    finally:
        await runner.cleanup()


class Listener:
    """Reads what the recorder would, and keeps the reports by job."""

    def __init__(self, url: str) -> None:
        self.reports: dict[UUID, list[Report]] = {}
        self._ended: dict[UUID, asyncio.Event] = {}
        self.consumer = Subscriber(
            url, name="test recorder", subscriptions=[Subscription(RECORDER_QUEUE, 1_000, self._take)]
        )

    async def until_ended(self, job_ids: Iterable[UUID]) -> None:
        """Return once all these jobs have ended."""
        async with asyncio.timeout(90):
            for job_id in job_ids:
                await self._ended.setdefault(job_id, asyncio.Event()).wait()

    def _take(self, delivery: Delivery) -> None:
        for parsed in parse_delivery(delivery, now=utc_now()).reports:
            assert parsed.report is not None
            self._note(parsed.report)
        delivery.ack()

    def _note(self, report: Report) -> None:
        self.reports.setdefault(report.job_id, []).append(report)
        if report.state.is_final:
            self._ended.setdefault(report.job_id, asyncio.Event()).set()


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[None]:
    stop = asyncio.Event()
    worker = asyncio.create_task(run_worker(settings, Plan(("check",)), stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await worker


async def publish(publisher: Publisher, lane: Lane, urls: Iterable[str]) -> list[UUID]:
    jobs = [JobMessage(id=uuid.uuid4(), kind="check", lane=lane, args={"url": url}) for url in urls]
    key = stored_key("check", lane)
    await asyncio.gather(
        *(publisher.publish(Outgoing(JOBS, key, job.encode(), "job", str(job.id))) for job in jobs)
    )
    return [job.id for job in jobs]


def urls_of(hosts: list[str], port: int, total: int) -> list[str]:
    return [f"http://{hosts[number % len(hosts)]}:{port}/{number}" for number in range(total)]


async def seconds_of_others(
    publisher: Publisher, listener: Listener, port: int, *, of_a_lane: int = OTHERS_OF_A_LANE
) -> float:
    """Return how long jobs of many other hosts take in both lanes."""
    started = time.monotonic()
    urls = urls_of(OTHER_HOSTS, port, of_a_lane)
    async with asyncio.TaskGroup() as group:
        lanes = [group.create_task(publish(publisher, lane, urls)) for lane in Lane]
    await listener.until_ended(job_id for lane in lanes for job_id in lane.result())
    return time.monotonic() - started


def most_within(seconds: float, times: list[float]) -> int:
    return max(sum(start <= time < start + seconds for time in times) for start in times)


async def test_many_urls_of_one_host_keep_its_limits_and_hold_up_no_other(vhost_url: str) -> None:
    async with (
        open_site() as site,
        running_publisher(vhost_url, timeout_seconds=60) as publisher,
        running((listener := Listener(vhost_url)).consumer.run()),
    ):
        settings = Settings(
            amqp_url=vhost_url,
            egress_allow="127.0.0.0/8",  # type: ignore[arg-type]
            host_limits=f"{HOT}={HOT_AT_ONCE}:{HOT_PER_SECOND}",  # type: ignore[arg-type]
        )
        async with working(settings):
            undisturbed_seconds = await seconds_of_others(publisher, listener, site.port)

            hot_jobs = await publish(publisher, Lane.BULK, urls_of([HOT], site.port, HOT_JOBS))
            disturbed_seconds = await seconds_of_others(publisher, listener, site.port)
            visits_by_then = len(site.hot_at)
            await listener.until_ended(hot_jobs)

    reports = [report for job_id in hot_jobs for report in listener.reports[job_id]]
    deferrals = Counter(report.job_id for report in reports if report.is_deferral)
    ends = [report for report in reports if report.outcome is not None]
    assert len(site.hot_at) == HOT_JOBS
    assert site.hot_at_once <= HOT_AT_ONCE
    # The worker starts one every 50 ms. A busy machine brings some late to the server, where they fall into
    # a window with later ones: up to a second late here. Twice the rate would be 200 in these five seconds.
    assert most_within(5, site.hot_at) <= 5 * HOT_PER_SECOND + HOT_PER_SECOND
    # The host was busy all the time that the others were measured.
    assert visits_by_then < HOT_JOBS
    # Behind the hot host they would take its 12 s.
    assert disturbed_seconds <= 2 * undisturbed_seconds + 5
    assert max(deferrals.values()) <= 3
    assert [(end.state, end.attempt, end.outcome) for end in ends] == [
        (JobState.SUCCEEDED, 1, OutcomeName.SUCCEEDED)
    ] * HOT_JOBS


async def test_many_names_of_one_machine_are_one_machine_and_hold_up_no_other(vhost_url: str) -> None:
    names = [f"n{number}.wild.example" for number in range(HOT_NAMES)]
    async with (
        open_site() as site,
        running_publisher(vhost_url, timeout_seconds=60) as publisher,
        running((listener := Listener(vhost_url)).consumer.run()),
    ):
        with dns_server({name: [[HOT]] for name in names}) as dns:
            settings = Settings(
                amqp_url=vhost_url,
                dns_servers=(dns.server,),
                egress_allow="127.0.0.0/8",  # type: ignore[arg-type]
                host_concurrency=NAMES_AT_ONCE,
                host_rate_per_second=NAMES_PER_SECOND,
            )
            async with working(settings):
                hot_jobs = await publish(publisher, Lane.BULK, urls_of(names, site.port, HOT_NAMES))
                await seconds_of_others(publisher, listener, site.port, of_a_lane=50)
                visits_by_then = len(site.hot_at)
                await listener.until_ended(hot_jobs)

    reports = [report for job_id in hot_jobs for report in listener.reports[job_id]]
    said = {report.explanation for report in reports if report.is_deferral}
    assert len(site.hot_at) == HOT_NAMES
    assert site.hot_at_once <= NAMES_AT_ONCE
    # As above; without a limit of the address they would all come within two seconds.
    assert most_within(2, site.hot_at) <= 2 * NAMES_PER_SECOND + NAMES_PER_SECOND
    assert visits_by_then < HOT_NAMES
    assert said
    assert [each for each in said if "127.0.0.1, the address of n" not in (each or "")] == []
    ends = [report for report in reports if report.state.is_final]
    assert [end.state for end in ends] == [JobState.SUCCEEDED] * HOT_NAMES
    # Only one whose name took two seconds to look up may have cost an attempt.
    assert sum(end.attempt > 1 for end in ends) <= HOT_NAMES // 10
