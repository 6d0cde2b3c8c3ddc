"""Builds a worker from settings: the one place where its parts meet."""

import asyncio
import logging
import os
import resource
import socket
from collections.abc import Awaitable

from pydantic import BaseModel

from consumer.backlog import PutOffs, SlotAdmission
from consumer.commands.policy import CommandPolicy
from consumer.compute.pool import ComputePool
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
from consumer.plan import Plan
from consumer.politeness.address_limiters import AddressLimiters
from consumer.politeness.admission import Admission
from consumer.politeness.host_limiters import FirstPermit, HostLimiters
from consumer.report_batcher import ReportBatcher
from consumer.rounds import Rounds
from consumer.secrets import Secrets, Signer
from consumer.worker import Worker
from shared.broker.publisher import Publisher
from shared.broker.topology import verify_topology
from shared.encryption import EncryptionKeys
from shared.health import serve_health
from shared.kinds.command import COMMAND
from shared.messages import JobMessage
from shared.outcomes import Outcome
from shared.settings import Settings
from shared.watchdog import watched

logger = logging.getLogger(__name__)


async def run_worker(settings: Settings, plan: Plan, stop: asyncio.Event) -> None:
    """Run a worker as planned, until `stop` is set, or its only round is over, and it has drained.

    Raises:
        DrainGivenUp: it was to end with its queues empty, and could not use the broker for too long.
        DrainStopped: it was to end with its queues empty, and `stop` was set before.
        StaysUnready: it drained because it could reach the broker and was of no use for too long.
    """
    name = f"{socket.gethostname()}-{os.getpid()}"
    _raise_file_limit()
    compute = ComputePool(
        processes=settings.compute_processes,
        cpu_seconds=settings.compute_cpu_seconds,
        memory_bytes=settings.compute_memory_bytes,
    )
    metrics = WorkerMetrics(compute)
    publisher = Publisher(
        settings.amqp_url,
        name=f"retriever worker {name} publish",
        timeout_seconds=settings.publish_timeout_seconds,
        prepare=lambda channel: verify_topology(channel, plan.kinds),
        plain=settings.amqp_plain,
    )
    rounds = Rounds(every_seconds=plan.every_seconds, reason=lambda: publisher.reason)
    async with open_session(settings) as session, compute:
        worker = _build_worker(
            settings, plan, session, publisher, metrics, compute=compute, rounds=rounds, name=name
        )
        async with (
            serve_health(
                host=settings.health_host,
                port=settings.health_port,
                allowed_hosts=settings.health_allowed_hosts,
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
            logger.info("worker_started", extra={"worker": name, "kinds": list(plan.kinds)})
            await worker.run(stop)
    logger.info("worker_stopped", extra={"worker": name})
    if plan.drains:
        rounds.check()


def _build_worker(
    settings: Settings,
    plan: Plan,
    session: HttpSession,
    publisher: Publisher,
    metrics: WorkerMetrics,
    *,
    compute: ComputePool,
    rounds: Rounds,
    name: str,
) -> Worker:
    limiters, addresses = _limiters(settings)
    keys = EncryptionKeys.of(settings.encryption_keys)
    client = Client(
        session,
        secrets=Secrets(settings.secrets_dir, keys),
        limiters=limiters,
        addresses=addresses,
        robots=RobotsFiles(settings.user_agent),
        signer=Signer(settings.webhook_secrets),
        compute=compute,
        inline_body_bytes=settings.inline_body_bytes,
    )
    cancellations = Cancellations(settings.amqp_url, name=f"retriever worker {name} cancellations")
    pauses = CurrentPauses(settings.amqp_url, name=f"retriever worker {name} pauses")
    slots_by_kind = plan.slots_by_kind(
        settings, is_paused=pauses.cover, tell=PutOffs(publisher, worker=name).tell
    )
    admission = Admission(limiters, addresses, prefetch_by_lane=plan.running_by_lane(settings))
    handlers = _handlers(settings, plan, client, publisher, name=name)
    handler = DeliveryHandler(
        executor=Executor(handlers),
        admission=SlotAdmission(admission, slots_by_kind) if slots_by_kind else admission,
        publisher=publisher,
        reports=ReportBatcher(publisher) if settings.bundle_jobs > 1 else None,
        cancellations=cancellations,
        metrics=metrics,
        worker=name,
        keys=keys,
    )
    return Worker(
        settings=settings,
        plan=plan,
        handler=handler,
        publisher=publisher,
        cancellations=cancellations,
        pauses=pauses,
        metrics=metrics,
        name=f"retriever worker {name}",
        slots_by_kind=slots_by_kind,
        rounds=rounds if plan.has_rounds else None,
    )


def _handlers(
    settings: Settings, plan: Plan, client: Client, publisher: Publisher, *, name: str
) -> dict[str, BoundHandler]:
    handlers = {kind: _bind(HANDLERS[kind], client) for kind in plan.kinds if kind != COMMAND}
    if COMMAND in plan.kinds:
        live_output = LiveOutput(publisher, worker=name)
        handlers[COMMAND] = command_handler(CommandPolicy.of(settings), live_output)
    return handlers


def _limiters(settings: Settings) -> tuple[HostLimiters, AddressLimiters]:
    if not settings.contact_url:
        logger.info("contact_url_missing", extra={"setting": "RETRIEVER_CONTACT_URL"})
    default = settings.default_host_limit
    hosts = HostLimiters(default, settings.named_limits)
    return hosts, AddressLimiters(default, settings.network_limits)


def _raise_file_limit() -> None:
    # Every job in hand may hold a socket or two, and idle ones linger; the soft limit is often 1,024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _bind(handler: Handler, client: Client) -> BoundHandler:
    def run(args: BaseModel, job: JobMessage, first_permit: FirstPermit) -> Awaitable[Outcome]:
        return handler(args, client.for_job(job, first_permit))

    return run
