"""The API for tests: a real uvicorn on loopback, in a thread of its own, on a real store."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
import httpx

from producer.api.app import build_server
from producer.store.database import Database
from producer.store.migrate import migrate
from shared.settings import Settings

START_SECONDS = 10.0
REQUEST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer to a raw request; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """Its body, read as JSON."""
        document: dict[str, Any] = json.loads(self.body)
        return document


class _AnswerReader:
    """Reads the answers on a connection, but for those that only say to go on."""

    def __init__(self) -> None:
        self.answers: list[RawAnswer] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if (status := self.parser.get_status_code()) != HTTPStatus.CONTINUE:
            self.answers.append(RawAnswer(status, self._headers, self._body))


@dataclass(frozen=True, slots=True)
class RunningApi:
    """A serving API, its store, and a client of it."""

    port: int
    store: Database
    client: httpx.Client

    def connect(self, *, source: str = "127.0.0.1") -> socket.socket:
        """Return a raw connection from an address, to send what no client library would."""
        return socket.create_connection(
            ("127.0.0.1", self.port), timeout=REQUEST_SECONDS, source_address=(source, 0)
        )

    def send_raw(self, *parts: bytes, answers: int = 1) -> list[RawAnswer]:
        """Send bytes over one connection; return so many answers, fewer if it is closed before."""
        reader = _AnswerReader()
        with self.connect() as connection:
            for part in parts:
                connection.sendall(part)
            while len(reader.answers) < answers and (received := connection.recv(65_536)):
                reader.parser.feed_data(received)
        return reader.answers


@contextmanager
def running_api(settings: Settings, *, migrated: bool = True) -> Iterator[RunningApi]:
    """Serve the API until the block ends, on a free port and a migrated database."""
    if migrated:
        migrate(settings.database_url)
    store = Database.open(settings.database_url)
    listener = socket.create_server(("127.0.0.1", 0))
    # As uvloop has it. Of such a listener asyncio leaves it off, and an answer in two parts takes 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    port = listener.getsockname()[1]
    server = build_server(store, settings, grace_seconds=5)
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
