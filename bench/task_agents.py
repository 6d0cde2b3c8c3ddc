"""`python -m bench.task_agents`: agents that pick tasks and finish each at once, until they are killed.

Each has one connection that stays open, and speaks HTTP with as little around it as there can be, because the
agents share the machine with the API that is measured. An answer that is no success ends all of them.
"""

import asyncio
import os
from typing import Any, cast

import click
import httptools
import orjson
import uvloop

from deploy.local.ports import LOOPBACK

LEASE_SECONDS = 60
SUBMITTERS = 32
Json = dict[str, Any]


@click.command()
@click.option("--port", type=int, required=True, help="Where the API is, on this machine.")
@click.option("--queue", required=True)
@click.option("--agents", type=click.IntRange(1), required=True)
@click.option("--at-once", default=1, type=click.IntRange(1), help="How many tasks one pick may bring.")
@click.option("--wait-seconds", default=5, help="How long a pick waits when there is nothing.")
def main(port: int, queue: str, agents: int, at_once: int, wait_seconds: int) -> None:
    """Pick and finish."""
    uvloop.run(_run_all(port, queue, agents, at_once, wait_seconds))


async def submit_tasks(port: int, queue: str, tasks: int) -> None:
    """Submit so many tasks that ask for nothing, each in a request of its own.

    Raises:
        ConnectionError: one was refused.
    """
    task = {"queue": queue, "payload": {}}

    async def submit(count: int) -> None:
        connection = await _connect(port)
        for _ in range(count):
            await connection.post("/tasks", task)

    async with asyncio.TaskGroup() as group:
        for first in range(SUBMITTERS):
            group.create_task(submit(len(range(first, tasks, SUBMITTERS))))


class Connection(asyncio.Protocol):
    """One connection for one request at a time."""

    def __init__(self) -> None:
        """Make one that is not open yet."""
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._answer: asyncio.Future[bytes] | None = None

    async def post(self, path: str, document: Json) -> Json:
        """POST a JSON document, and return the one that answers it.

        Raises:
            ConnectionError: the answer was no success, or the connection ended.
        """
        assert self._transport is not None
        body = orjson.dumps(document)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer: Json = orjson.loads(await self._answer)
        return answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what is written to."""
        # Not by isinstance: uvloop's own is no subclass.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read on in the answer."""
        self._parser.feed_data(data)

    def connection_lost(self, _error: Exception | None) -> None:
        """End the request that waits."""
        self._end(ConnectionError("the API closed the connection"))

    def on_body(self, part: bytes) -> None:
        """Keep a part of the body. The parser calls this."""
        self._body.append(part)

    def on_message_complete(self) -> None:
        """Give the answer to who waits. The parser calls this."""
        body, self._body = b"".join(self._body), []
        status, self._parser = self._parser.get_status_code(), httptools.HttpResponseParser(self)
        self._end(body if status < 300 else ConnectionError(f"{status}: {body[:1_000]!r}"))

    def _end(self, found: bytes | ConnectionError) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(found, bytes):
            self._answer.set_result(found)
        else:
            self._answer.set_exception(found)


async def _run_all(port: int, queue: str, agents: int, at_once: int, wait_seconds: int) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(agents):
            pick = {
                "queue": queue,
                "agent": f"{os.getpid()}-{number}",
                "max": at_once,
                "wait_seconds": wait_seconds,
                "lease_seconds": LEASE_SECONDS,
            }
            group.create_task(_run(port, pick))


async def _run(port: int, pick: Json) -> None:
    connection = await _connect(port)
    while True:
        for task in (await connection.post("/tasks/pick", pick))["tasks"]:
            end = {"token": task["lease"]["token"], "outcome": "succeeded", "exit_code": 0}
            await connection.post(f"/tasks/{task['id']}/finish", end)


async def _connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, LOOPBACK, port)
    return connection


if __name__ == "__main__":
    main()
