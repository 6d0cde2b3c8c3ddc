"""Everything that a fault can reach: broker, store, processes, the links between them, the target."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

from deploy.local.broker import Broker
from deploy.local.cluster import Cluster
from deploy.local.errors import LocalError
from deploy.local.ports import free_ports
from deploy.local.postgres import Postgres
from producer.store.migrate import migrate
from tests.conftest import new_postgres_database
from tests.faults.listener import Listener
from tests.faults.proxy import Proxy
from tests.faults.services import RUN, Service, running
from tests.faults.target import Target, open_target
from tests.faults.timeline import Timeline
from tests.support.environment import clean_environment
from tests.support.factories import make_webhook_secret
from tests.support.management import Management

# Short, to notice a silent peer in seconds: the broker drops it after two, aiormq after (3 + 1) * 3 s.
HEARTBEAT_SECONDS = 3
SILENCE_SECONDS = 14.0
"""After such a silence everybody has given a broker or link up."""
# After this time a silent job counts as lost. Reports of unhurt jobs come sooner.
LOST_AFTER_SECONDS = 8.0
# Without these nothing could be seen: the target is on this machine.
_NEEDED = {"RETRIEVER_EGRESS_ALLOW": "127.0.0.0/8"}
_SHORTENED = {
    "RETRIEVER_WORKER_GRACE_SECONDS": "5",
    # Few, so that queues can fill.
    "RETRIEVER_WORKER_BULK_PREFETCH": "10",
    "RETRIEVER_WORKER_INTERACTIVE_PREFETCH": "5",
    # And so that the jobs of a trial make more than a message or two.
    "RETRIEVER_BUNDLE_JOBS": "3",
    # One local target stands for all hosts there are.
    "RETRIEVER_HOST_CONCURRENCY": "2000",
    "RETRIEVER_HOST_RATE_PER_SECOND": "0",
    "RETRIEVER_HOST_FAILURES": "0",
    # Short, so that no test waits for the lease of a ledger that died.
    "RETRIEVER_RELAY_LEASE_SECONDS": "5",
    "RETRIEVER_PUBLISH_TIMEOUT_SECONDS": "5",
    "RETRIEVER_LOST_AFTER_SECONDS": f"{LOST_AFTER_SECONDS:g}",
    "RETRIEVER_LOG_LEVEL": "INFO",
}
# With the limits of hosts as they are by default, one host would be too slow for all jobs.
_HOSTS_AT_DEFAULTS = 32

# What a broker that is away looks like through rabbitmqctl, the management API and AMQP.
_AWAY = (LocalError, httpx.HTTPError, AMQPError, ChannelInvalidStateError, OSError, TimeoutError)
_PATIENCE_SECONDS = 120.0
_AGAIN_SECONDS = 0.5

T = TypeVar("T")


@dataclass(slots=True)
class World:
    """One running system, two of every process, and hands on all of it."""

    broker: Broker
    vhost: str
    management: Management
    database: Postgres | None
    database_url: str
    target: Target
    worker_link: Proxy
    """Between the workers and the broker."""
    ledger_link: Proxy
    """Between the ledgers and the broker."""
    store_link: Proxy | None
    """Between api, ledger and PostgreSQL."""
    listener: Listener
    timeline: Timeline
    folder: Path
    amqp_url: str
    """Straight to the broker; of a cluster, to all nodes."""
    cluster: Cluster | None = None
    is_shortened: bool = True
    """Whether times and limits are shortened; else every setting has its default."""
    apis: list[Service] = field(default_factory=list)
    ledgers: list[Service] = field(default_factory=list)
    workers: list[Service] = field(default_factory=list)

    @property
    def services(self) -> list[Service]:
        """All processes."""
        return [*self.apis, *self.ledgers, *self.workers]

    @property
    def deadline_seconds(self) -> float:
        """After a fault all has to have ended within this time; jobs may have to count as lost first."""
        return 120.0 if self.is_shortened else 600.0

    @property
    def crashes(self) -> list[str]:
        """Ends of processes that nobody asked for."""
        return [crash for service in self.services for crash in service.crashes]

    async def control(self, *arguments: str) -> str:
        """Run rabbitmqctl on the broker, again while that is away; return what it printed."""
        return await patiently(lambda: blocking(partial(self.broker.control, *arguments)))

    async def manage(self, call: Callable[[Management], T]) -> T:
        """Return what the management API answers, asking again while the broker is away."""
        return await patiently(lambda: blocking(partial(call, self.management)))

    def log_lines(self, *events: str) -> int:
        """Return how many lines with one of the events the processes have logged so far."""
        logs = [service.log.read_text(errors="replace") for service in self.services]
        return sum(log.count(f'"event": "{event}"') for log in logs for event in events)

    async def wait_ready(self) -> None:
        """Return once every process says that it is ready."""
        await asyncio.gather(*(service.wait_ready() for service in self.services))


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Return what a call to the broker gives, calling again while another fault keeps the broker away.

    Raises:
        LocalError, httpx.HTTPError, AMQPError, ...: it did not work for two minutes; the last error.
    """
    ends_at = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return await call()
        except _AWAY:
            if time.monotonic() > ends_at:
                raise
        await asyncio.sleep(_AGAIN_SECONDS)


async def blocking(call: Callable[[], T]) -> T:
    """Return what a call gives that blocks, without holding up the target."""
    return await asyncio.to_thread(call)


@asynccontextmanager
async def open_world(
    broker: Broker,
    *,
    postgres: Postgres | None,
    cluster: Cluster | None = None,
    is_shortened: bool = True,
) -> AsyncIterator[World]:
    """Yield a running system on a virtual host and a database of its own; it ends with the context.

    Args:
        broker: Where it publishes, through links of its own.
        postgres: The server of its store; None takes SQLite.
        cluster: Its processes know all nodes of it, and have no links that could be hurt.
        is_shortened: Whether faults are noticed in seconds; False leaves every setting at its default.
    """
    assert broker.management_url is not None
    async with AsyncExitStack() as stack:
        management, vhost = Management(broker.management_url), f"faults-{uuid.uuid4().hex[:8]}"
        folder = RUN / vhost
        folder.mkdir(parents=True)
        stack.callback(management.close)
        await blocking(partial(management.create_vhost, vhost))
        stack.callback(management.delete_vhost, vhost)
        broker_port = urlsplit(broker.amqp_url).port or 5672
        worker_link, ledger_link = [
            await stack.enter_async_context(Proxy(target_port=broker_port).listening()) for _ in range(2)
        ]
        hosts = 1 if is_shortened else _HOSTS_AT_DEFAULTS
        target = await stack.enter_async_context(open_target(hosts=hosts))
        base = broker.amqp_url.rpartition("/")[0]
        timeline = Timeline()
        direct_url = f"{cluster.amqp_url.rpartition('/')[0] if cluster else base}/{vhost}"
        world = World(
            broker=broker,
            vhost=vhost,
            management=management,
            database=postgres,
            database_url=f"sqlite:///{folder / 'retriever.db'}",
            target=target,
            worker_link=worker_link,
            ledger_link=ledger_link,
            store_link=None,
            listener=Listener(direct_url),
            timeline=timeline,
            folder=folder,
            amqp_url=direct_url,
            cluster=cluster,
            is_shortened=is_shortened,
        )
        if postgres is not None:
            await _open_database(world, postgres, stack)
        await blocking(partial(migrate, world.database_url))
        _add_services(world, own_url=direct_url if cluster else None)
        await stack.enter_async_context(running(world.services))
        await stack.enter_async_context(world.listener.listening())
        yield world


async def _open_database(world: World, postgres: Postgres, stack: AsyncExitStack) -> None:
    url = stack.enter_context(new_postgres_database(postgres, prefix="faults"))
    parts = urlsplit(url)
    world.store_link = await stack.enter_async_context(Proxy(target_port=parts.port or 5432).listening())
    world.database_url = url.replace(f":{parts.port}/", f":{world.store_link.port}/")


def _add_services(world: World, *, own_url: str | None) -> None:
    secret = make_webhook_secret()
    settings = _NEEDED | (_SHORTENED if world.is_shortened else {})
    query = f"?heartbeat={HEARTBEAT_SECONDS}" if world.is_shortened else ""
    ports = iter(free_ports(6))

    def service(name: str, link: Proxy, *command: str) -> Service:
        port = next(ports)
        through_link = f"amqp://guest:guest@127.0.0.1:{link.port}/{world.vhost}"
        environment = {
            **clean_environment(),
            "PYTHONUNBUFFERED": "1",
            "RETRIEVER_AMQP_URL": f"{own_url or through_link}{query}",
            "RETRIEVER_DATABASE_URL": world.database_url,
            "RETRIEVER_API_PORT": str(port),
            "RETRIEVER_HEALTH_PORT": str(port),
            "RETRIEVER_WEBHOOK_SECRETS": secret,
            "RETRIEVER_USER_AGENT": f"Retriever/{name}",
            **settings,
        }
        return Service(name, command, environment, port, world.folder / f"{name}.log")

    world.apis += [service(f"api-{n}", world.ledger_link, "producer", "api") for n in (1, 2)]
    world.ledgers += [service(f"ledger-{n}", world.ledger_link, "producer", "ledger") for n in (1, 2)]
    world.workers += [service(f"worker-{n}", world.worker_link, "consumer", "worker") for n in (1, 2)]


def http_client(world: World, *, api: int = 0) -> httpx.AsyncClient:
    """Return a client of one of the APIs."""
    return httpx.AsyncClient(base_url=world.apis[api].url, timeout=10.0)
