"""Builds a worker from settings: the one place where its parts meet."""

import asyncio
import logging
import os
import resource
import socket
from collections.abc import Awaitable, Sequence

from pydantic import BaseModel

from consumer.commands.policy import CommandPolicy
from consumer.control_streams import Cancellations, CurrentPauses
from consumer.delivery_handler import DeliveryHandler
from consumer.executor import BoundHandler, Executor
from consumer.handlers.command import command_handler
from consumer.handlers.registry import HANDLERS, Handler
from consumer.http.client import Client
from consumer.http.robots import RobotsFiles
from consumer.http.session import HttpSession, open_session
from consumer.live_output import LiveOutput
from consumer.metrics import WorkerMetrics
from consumer.politeness.admission import Admission
from consumer.politeness.host_limiters import FirstPermit, HostLimiters
from consumer.report_batcher import ReportBatcher
from consumer.secrets import Secrets, Signer
from consumer.worker import Worker, prefetch_by_lane
from shared.broker.publisher import Publisher
from shared.broker.topology import verify_topology
from shared.health import serve_health
from shared.hosts import HostLimit
from shared.kinds.command import COMMAND
from shared.messages import JobMessage
from shared.outcomes import Outcome
from shared.settings import Settings
from shared.watchdog import watched

logger = logging.getLogger(__name__)


async def run_worker(settings: Settings, kinds: Sequence[str], stop: asyncio.Event) -> None:
    """Run a worker for some kinds until `stop` is set and it has drained.

    Raises:
        StaysUnready: it drained because it could reach the broker and was of no use for too long.
    """
    name = f"{socket.gethostname()}-{os.getpid()}"
    _raise_file_limit()
    metrics = WorkerMetrics()
    publisher = Publisher(
        settings.amqp_url,
        name=f"retriever worker {name} publish",
        timeout_seconds=settings.publish_timeout_seconds,
        prepare=lambda channel: verify_topology(channel, kinds),
        plain=settings.amqp_plain,
    )
    async with open_session(settings) as session:
        worker = _build_worker(settings, kinds, session, publisher, metrics, name=name)
        async with (
            serve_health(
                host=settings.health_host,
                port=settings.health_port,
                probes=worker.probes,
                registry=metrics.registry,
                reasons={"publisher": lambda: publisher.reason},
            ),
            watched(
                probes=worker.probes,
                is_waiting=lambda: not publisher.is_reachable,
                limit_seconds=settings.watchdog_seconds,
                stop=stop,
            ),
        ):
            logger.info("worker_started", extra={"worker": name, "kinds": list(kinds)})
            await worker.run(stop)
    logger.info("worker_stopped", extra={"worker": name})


def _build_worker(
    settings: Settings,
    kinds: Sequence[str],
    session: HttpSession,
    publisher: Publisher,
    metrics: WorkerMetrics,
    *,
    name: str,
) -> Worker:
    limiters = _host_limiters(settings)
    client = Client(
        session,
        secrets=Secrets(settings.secrets_dir),
        limiters=limiters,
        robots=RobotsFiles(settings.user_agent),
        signer=Signer(settings.webhook_secrets),
        inline_body_bytes=settings.inline_body_bytes,
    )
    cancellations = Cancellations(settings.amqp_url, name=f"retriever worker {name} cancellations")
    handlers = {kind: _bind(HANDLERS[kind], client) for kind in kinds if kind != COMMAND}
    if COMMAND in kinds:
        live_output = LiveOutput(publisher, worker=name)
        handlers[COMMAND] = command_handler(CommandPolicy.of(settings), live_output)
    handler = DeliveryHandler(
        executor=Executor(handlers),
        admission=Admission(limiters, prefetch_by_lane=prefetch_by_lane(settings)),
        publisher=publisher,
        reports=ReportBatcher(publisher) if settings.bundle_jobs > 1 else None,
        cancellations=cancellations,
        metrics=metrics,
        worker=name,
    )
    return Worker(
        settings=settings,
        kinds=kinds,
        handler=handler,
        publisher=publisher,
        cancellations=cancellations,
        pauses=CurrentPauses(settings.amqp_url, name=f"retriever worker {name} pauses"),
        metrics=metrics,
        name=f"retriever worker {name}",
    )


def _host_limiters(settings: Settings) -> HostLimiters:
    if not settings.contact_url:
        logger.info("contact_url_missing", extra={"setting": "RETRIEVER_CONTACT_URL"})
    return HostLimiters(
        HostLimit(settings.host_concurrency, settings.host_rate_per_second),
        settings.host_limits,
        failures_to_open=settings.host_failures,
    )


def _raise_file_limit() -> None:
    # Every job in hand may hold a socket or two, and idle ones linger; the soft limit is often 1,024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _bind(handler: Handler, client: Client) -> BoundHandler:
    def run(args: BaseModel, job: JobMessage, first_permit: FirstPermit) -> Awaitable[Outcome]:
        return handler(args, client.for_job(job, first_permit))

    return run
