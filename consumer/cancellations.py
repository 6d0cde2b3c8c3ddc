"""What must not run any more, as every worker reads it from the stream of cancellations."""

import asyncio
import logging
from collections import OrderedDict
from contextlib import AbstractContextManager
from typing import Any, TypeVar
from uuid import UUID

from consumer.marker import Marker
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.stream import StreamReader
from shared.broker.topology import CANCELLED_STREAM, DEFAULT
from shared.errors import MessageUndecodable
from shared.events import Cancellation, EventType
from shared.messages import JobMessage

# Some 200 bytes each. The oldest are forgotten first; their messages are long gone.
_KEPT = 200_000

logger = logging.getLogger(__name__)

V = TypeVar("V")


class Cancellations:
    """Knows cancelled jobs and batches, and cancels the attempts of theirs that run here."""

    def __init__(self, url: str, *, name: str) -> None:
        """Make one that has read nothing yet."""
        self._reader = StreamReader(url, name=name, stream=CANCELLED_STREAM, take=self._take)
        self._runs_by_job: OrderedDict[UUID, int] = OrderedDict()
        self._batches: OrderedDict[UUID, None] = OrderedDict()
        self._running: dict[asyncio.Task[Any], JobMessage] = {}
        self._cancelled_tasks: set[asyncio.Task[Any]] = set()
        self._marker = Marker()

    @property
    def is_caught_up(self) -> bool:
        """Whether everything cancelled before this worker started is known."""
        return self._marker.is_read

    async def run(self) -> None:
        """Read until cancelled."""
        await self._reader.run()

    async def catch_up(self, publisher: Publisher) -> None:
        """Return once everything that was cancelled before now is known.

        Writes a marker of its own to the end of the stream and waits until it has read it.
        """
        body = Cancellation(marker=self._marker.id).encode()
        message = Outgoing(DEFAULT, CANCELLED_STREAM, body, EventType.CANCELLATION.value)
        await self._marker.publish_until_read(message, publisher)

    def has(self, job: JobMessage) -> bool:
        """Return whether the job, or its batch, was cancelled."""
        # Most often there is none; a UUID is hashed in Python.
        return bool(self._runs_by_job and self._runs_by_job.get(job.id, 0) >= job.run) or bool(
            self._batches and job.batch_id in self._batches
        )

    def watching(self, job: JobMessage, task: asyncio.Task[Any]) -> AbstractContextManager[None]:
        """Cancel the task when the job is cancelled while inside; `was_cancelled` tells."""
        return _Watching(self._running, job, task)

    def was_cancelled(self) -> bool:
        """Return whether the current task was cancelled because of its job; asking takes it back."""
        task = asyncio.current_task()
        if task is None or task not in self._cancelled_tasks:
            return False
        self._cancelled_tasks.discard(task)
        task.uncancel()
        return True

    def _take(self, body: bytes) -> None:
        try:
            cancellation = Cancellation.decode(body)
        except MessageUndecodable as error:
            logger.warning("cancellation_undecodable", extra={"error": str(error)})
            return
        self._marker.saw(cancellation.marker)
        # The whole stream is read again after each loss: what is known already cancels nothing.
        is_new = False
        if cancellation.job_id is not None:
            known_run = self._runs_by_job.get(cancellation.job_id, 0)
            run = max(known_run, cancellation.run or 1)
            _remember(self._runs_by_job, cancellation.job_id, run)
            is_new = run > known_run
        if cancellation.batch_id is not None:
            is_new = is_new or cancellation.batch_id not in self._batches
            _remember(self._batches, cancellation.batch_id, None)
        if is_new:
            self._cancel_running()

    def _cancel_running(self) -> None:
        for task, job in self._running.items():
            if task not in self._cancelled_tasks and self.has(job):
                self._cancelled_tasks.add(task)
                task.cancel()


class _Watching:
    # A class, and no generator, because every attempt passes here.
    __slots__ = ("_job", "_running", "_task")

    def __init__(
        self, running: dict[asyncio.Task[Any], JobMessage], job: JobMessage, task: asyncio.Task[Any]
    ) -> None:
        self._running = running
        self._job = job
        self._task = task

    def __enter__(self) -> None:
        self._running[self._task] = self._job

    def __exit__(self, *_: object) -> None:
        del self._running[self._task]


def _remember(kept: OrderedDict[UUID, V], key: UUID, value: V) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _KEPT:
        kept.popitem(last=False)
