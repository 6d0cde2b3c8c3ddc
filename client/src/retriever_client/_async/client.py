"""The client for coroutines."""

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx2

from retriever_client._async.operators import AsyncHosts, AsyncKeys, AsyncKinds, AsyncLimits, AsyncSecrets
from retriever_client._async.resources import (
    AsyncBatches,
    AsyncJobs,
    AsyncOperations,
    AsyncParked,
    AsyncSchedules,
    AsyncTasks,
    Events,
    read_audit,
)
from retriever_client._async.transport import AsyncTransport
from retriever_client._core import PAGE, Labels, id_of, label_texts, query_of
from retriever_client.models import AuditEntry, Batch, Event, Job, Retention, Stats, read


class AsyncRetriever:
    """A client of one service, for one event loop. Close it, or use it as a context."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout_seconds: float = 30.0,
        retries: int = 3,
        actor: str | None = None,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        """Make a client; it connects when it is used.

        Args:
            url: Default: `RETRIEVER_URL`, else a service on this machine.
            key: Default: what the file `RETRIEVER_KEY_FILE` has, else `RETRIEVER_KEY`.
            timeout_seconds: For each step of a request. Waits that you ask for come on top.
            retries: How often a request is sent again that got no answer, or was told to come back later.
                What changes something has an Idempotency-Key, so that it is done once.
            actor: A note for the audit log.
            http_client: One of your own, which is not closed.

        Raises:
            RetrieverError: the file of the key cannot be read.
        """
        self._transport = AsyncTransport(
            url,
            key,
            timeout_seconds=timeout_seconds,
            retries=retries,
            actor=actor,
            http_client=http_client,
        )
        self.jobs = AsyncJobs(self._transport)
        self.batches = AsyncBatches(self._transport)
        self.parked = AsyncParked(self._transport)
        self.operations = AsyncOperations(self._transport)
        self.schedules = AsyncSchedules(self._transport)
        self.tasks = AsyncTasks(self._transport)
        self.keys = AsyncKeys(self._transport)
        self.kinds = AsyncKinds(self._transport)
        self.hosts = AsyncHosts(self._transport)
        self.limits = AsyncLimits(self._transport)
        self.secrets = AsyncSecrets(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    @property
    def url(self) -> str:
        """The address of the service."""
        return self._transport.url

    async def check(self, url: str, *, wait: float | None = 30.0, **submission: Any) -> Job:
        """Check a URL, and return the job with its verdict.

        Args:
            url: What to check.
            wait: For how many seconds; 0 returns the job as it is stored, None waits for ever.
            submission: What `jobs.submit` takes, and the arguments of the kind in `args`.

        Raises:
            NotFinished: it has not ended by then; `last` is the job, and it goes on.
        """
        return await self._run("check", url, wait, submission)

    async def fetch(self, url: str, *, wait: float | None = 30.0, **submission: Any) -> Job:
        """Fetch a URL, and return the job with its result; the arguments are those of `check`.

        Raises:
            NotFinished: it has not ended by then; `last` is the job, and it goes on.
        """
        return await self._run("fetch", url, wait, submission)

    def events(
        self,
        *,
        batch: Batch | str | None = None,
        kind: str | None = None,
        states: list[str] | None = None,
        labels: Labels | None = None,
        after: str | None = None,
        follow: bool = True,
        keep_on: bool = False,
    ) -> AsyncIterator[Event]:
        """Return what ends, as it comes. When the connection breaks it comes back, and misses nothing.

        Args:
            batch: Only of this batch.
            kind: Only of this kind.
            states: Of jobs only those that ended so: `succeeded`, `parked`, `cancelled`.
            labels: Only with all of these.
            after: The `id` of the last event that you have; "0" begins with the first. Default: from now on.
            follow: Without it, it ends when all has been told.
            keep_on: Once connected come back however long the service is away, not `retries` times.
        """
        return Events(
            self._transport,
            after=after,
            follow=follow,
            keep_on=keep_on,
            batch_id=None if batch is None else id_of(batch),
            kind=kind,
            state=states,
            label=label_texts(labels),
        ).read()

    def audit(self, *, target: str | None = None, page_size: int = PAGE) -> AsyncIterator[AuditEntry]:
        """Return what was done, newest first; `target` is such as `job/<id>`."""
        return read_audit(self._transport, target, page_size)

    async def stats(self) -> Stats:
        """Return how much there is to do, and how fast it is done: figures of the last few seconds."""
        return read(Stats, await self._transport.document("GET", "/stats"))

    async def retention(self) -> Retention:
        """Return how long jobs are kept."""
        return read(Retention, await self._transport.document("GET", "/retention"))

    async def is_alive(self) -> bool:
        """Return whether the API answers, whatever its store does."""
        return bool((await self._transport.document("GET", "/livez"))["status"] == "ok")

    async def is_ready(self) -> bool:
        """Return whether the service can be used now.

        Raises:
            Unavailable: it cannot, and says why.
        """
        return bool((await self._transport.document("GET", "/readyz"))["status"] == "ok")

    async def metrics(self) -> str:
        """Return what the API measures, as Prometheus reads it."""
        return (await self._transport.request("GET", "/metrics")).text

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Return the answer to any request, such as one that this version has no method for.

        Raises:
            ApiError: the service refused it.
            ConnectionFailed: no answer came.
        """
        query = query_of(**(params or {}))
        return await self._transport.request(method, path, params=query, json=json, headers=headers)

    async def _run(self, kind: str, url: str, wait: float | None, submission: Mapping[str, Any]) -> Job:
        more = dict(submission)
        args = {"url": url, **(more.pop("args", None) or {})}
        job = await self.jobs.submit(kind, args, **more)
        if wait == 0 or job.is_ended:
            return job
        return await self.jobs.wait(job, timeout_seconds=wait)
