"""The listeners of the API: the public one and, where a port is set for it, one for agents.

What only agents need is internal: it gives out tasks and ends them. With a port of its own it can be closed
to the outside, by not publishing that port; on the public one it is then not found, and says where it is.
Without one it is served beside all else.
"""

import asyncio
import socket
from collections.abc import Callable
from http import HTTPStatus

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from producer.api.connections import Connections
from producer.api.problems import HttpProblem, problem_response
from producer.api.routes import RouteTable
from shared.errors import SettingsInvalid
from shared.listening import check_port
from shared.settings import Settings

# For whoever looks after the process that serves it.
_HEALTH = frozenset({"/livez", "/readyz"})
_TICKS_A_SECOND = 10
# Of an answer, in the system's buffer of one connection, beyond what is under way.
_UNSENT_BYTES = 131_072


def check_ports(settings: Settings) -> None:
    """Do nothing if this process may listen where it shall.

    Raises:
        SettingsInvalid: a port is taken, or both are one.
    """
    check_port(settings.api_host, settings.api_port, variable="RETRIEVER_API_PORT")
    if settings.agent_port == settings.api_port:
        raise SettingsInvalid("RETRIEVER_AGENT_PORT: must be another than RETRIEVER_API_PORT, or 0")
    if settings.agent_port:
        check_port(settings.agent_host, settings.agent_port, variable="RETRIEVER_AGENT_PORT")


class ApiServer(uvicorn.Server):
    """uvicorn with a listener for agents beside its own, and a word to those who wait when it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        connections: Connections,
        *,
        on_stop: Callable[[], None],
    ) -> None:
        """Make a server that does not run yet.

        Args:
            config: Of the public listener.
            settings: Of the listener for agents.
            connections: Those of both.
            on_stop: Called before requests in hand are waited for.
        """
        super().__init__(config)
        self._settings = settings
        self._connections = connections
        self._on_stop = on_stop
        limits = connections.limits
        shortest_seconds = min(limits.head_seconds, limits.body_seconds, limits.unread_seconds)
        self._look_every = max(1, min(_TICKS_A_SECOND, int(shortest_seconds * 5)))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if self._settings.agent_port and self.started:
            loop, config = asyncio.get_running_loop(), self.config

            def connection() -> asyncio.BaseProtocol:
                made: Callable[..., asyncio.BaseProtocol] = config.http_protocol_class
                return made(config=config, server_state=self.server_state, app_state=self.lifespan.state)

            listener = await loop.create_server(
                connection, self._settings.agent_host, self._settings.agent_port, backlog=config.backlog
            )
            self.servers.append(listener)
        for listener in self.servers if self.started else ():
            for each in listener.sockets:
                # Connections take it over. What a client does not read stays with us, where it is counted,
                # and does not fill megabytes of the system's buffers.
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections, too; uvicorn calls this ten times a second."""
        if counter % self._look_every == 0:
            self._connections.look(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, let those who wait for something go, and answer the rest."""
        self._on_stop()
        await super().shutdown(sockets)


class ListenerGate:
    """Keeps internal operations off the public listener, and all others off the one for agents."""

    def __init__(self, app: ASGIApp, *, routes: RouteTable, settings: Settings) -> None:
        self._app = app
        self._routes = routes
        self._agent_host = settings.agent_host
        self._agent_port = settings.agent_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or say where it belongs."""
        if self._agent_port and scope["type"] == "http" and (detail := self._refusal(scope)):
            await problem_response(HttpProblem(HTTPStatus.NOT_FOUND, detail))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        """Return in a sentence why this listener does not serve it; None when it does."""
        route = self._routes.find(scope["path"])
        is_internal = route is not None and route.is_internal
        if scope["server"][1] != self._agent_port:
            where = f"port {self._agent_port}, RETRIEVER_AGENT_PORT of this server"
            return f"This is for agents, and answers on {where}." if is_internal else None
        if is_internal or scope["path"] in _HEALTH:
            return None
        return "This port serves agents alone: what they do with tasks, /livez and /readyz."
