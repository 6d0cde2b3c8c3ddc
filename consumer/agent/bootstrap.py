"""Builds an agent from settings: the one place where its parts meet."""

import asyncio
import logging
import os
import socket

import aiohttp

from consumer.agent.agent import Agent, Pace
from consumer.agent.metrics import AgentMetrics
from consumer.agent.task_api import TaskApi
from consumer.agent.work import TaskWork
from shared.health import serve_health
from shared.settings import Settings
from shared.watchdog import watched

_KEEPALIVE_SECONDS = 2.0

logger = logging.getLogger(__name__)


async def run_agent(settings: Settings, stop: asyncio.Event, *, is_draining: bool) -> None:
    """Run an agent until `stop` is set, or until there are no more tasks when it drains.

    Raises:
        SettingsInvalid: what it is to run cannot be run here.
        DrainGivenUp: it was to drain, and the API gave no answer.
        DrainStopped: it was to drain, and `stop` was set before.
    """
    name = settings.agent_name or f"{socket.gethostname()}-{os.getpid()}"
    work, metrics = TaskWork.of(settings), AgentMetrics()
    async with _open_session(settings) as session:
        agent = Agent(
            name=name,
            pace=_pace(settings, is_draining=is_draining),
            api=TaskApi(session, settings.agent_api_url),
            work=work,
            metrics=metrics,
        )
        async with (
            serve_health(
                host=settings.health_host,
                port=settings.health_port,
                allowed_hosts=settings.health_allowed_hosts,
                probes=agent.probes,
                registry=metrics.registry,
                reasons={"api": lambda: agent.problem},
            ),
            watched(
                probes=agent.probes,
                is_waiting=lambda: True,  # Unready is who waits for the API, and that may last.
                limit_seconds=settings.watchdog_seconds,
                stop=stop,
            ),
        ):
            logger.info("agent_started", extra={"agent": name, "queue": settings.agent_queue})
            await agent.run(stop)
    logger.info("agent_stopped", extra={"agent": name})


def _open_session(settings: Settings) -> aiohttp.ClientSession:
    # There are as many requests at once as tasks in hand, and a pick. A connection is given up before the API
    # closes it, which it does after some idle seconds, or a request might just meet that.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
    key = settings.agent_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers=headers)


def _pace(settings: Settings, *, is_draining: bool) -> Pace:
    return Pace(
        queue=settings.agent_queue,
        order=settings.agent_order,
        limit=settings.agent_max_tasks,
        lease_seconds=settings.agent_lease_seconds,
        wait_seconds=settings.agent_wait_seconds,
        poll_seconds=settings.agent_poll_seconds,
        grace_seconds=settings.worker_grace_seconds,
        is_draining=is_draining,
    )
