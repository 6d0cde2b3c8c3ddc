"""The API for tests: a real uvicorn on loopback, in a thread of its own, on a real store."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import uvicorn

from producer.api.app import build_app
from producer.store.database import Database
from producer.store.migrate import migrate
from shared.settings import Settings

START_SECONDS = 10.0
REQUEST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RunningApi:
    """A serving API, its store, and a client of it."""

    port: int
    store: Database
    client: httpx.Client

    def connect(self) -> socket.socket:
        """Return a raw connection, to send what no client library would."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=REQUEST_SECONDS)


@contextmanager
def running_api(settings: Settings, *, migrated: bool = True) -> Iterator[RunningApi]:
    """Serve the API until the block ends, on a free port and a migrated database."""
    if migrated:
        migrate(settings.database_url)
    store = Database.open(settings.database_url)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(
        build_app(store, settings),
        loop="asyncio",
        http="httptools",
        ws="none",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=REQUEST_SECONDS) as client:
            # The listener queues connections until the server takes them, so there is nothing to wait for.
            yield RunningApi(port, store, client)
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        listener.close()
        store.close()
