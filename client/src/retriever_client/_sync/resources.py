"""What the service has, each with what can be done with it."""

import json
import time
from collections.abc import Iterable, Iterator, Callable, Iterable, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any, TypeVar

import httpx2

from retriever_client._sync.transport import Transport
from retriever_client._core import (
    NDJSON,
    PAGE,
    POLL_SECONDS,
    Item,
    Labels,
    LineSpool,
    document_of,
    id_of,
    label_texts,
    query_of,
)
from retriever_client._waiting import Stream, sleep
from retriever_client.errors import (
    Conflict,
    ConnectionFailed,
    NotFinished,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from retriever_client.models import (
    AuditEntry,
    Batch,
    Event,
    Extension,
    Job,
    LeasedTask,
    Operation,
    Output,
    PagedFetch,
    ParkedGroups,
    RejectedLine,
    Schedule,
    Shown,
    Task,
    read,
)

Model = TypeVar("Model", bound=Shown)
# `list` is a method of the classes below.
list_of = list
# How long an event stream waits before it comes back.
_AGAIN_SECONDS = 1.0
# An operation is looked at so often; many are done soon, so the first pauses are shorter.
_FIRST_LOOK_SECONDS, _LOOK_SECONDS = 0.1, 1.0


class Resource:
    """Something that the service has."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _get(self, model: type[Model], path: str, **params: Any) -> Model:
        return read(model, self._transport.document("GET", path, params=query_of(**params)))

    def _post(self, model: type[Model], path: str, **request: Any) -> Model:
        return read(model, self._transport.document("POST", path, **request))

    def pages(
        self,
        model: type[Model],
        path: str,
        *,
        page_size: int = PAGE,
        place: str = "cursor",
        **params: Any,
    ) -> Stream[Model]:
        """Yield all items of a list, a page at a time; a page may be empty while there are more.

        Args:
            place: What the parameter is called that says where to go on.
        """
        cursor: str | None = None
        while True:
            query = query_of(**params, limit=page_size, **{place: cursor})
            page = self._transport.document("GET", path, params=query)
            for each in page["items"]:
                yield read(model, each)
            cursor = page["next"]
            if cursor is None:
                return


class Jobs(Resource):
    """Jobs: one unit of work each."""

    def submit(
        self,
        kind: str,
        args: Mapping[str, Any],
        *,
        lane: str | None = None,
        labels: Labels | None = None,
        ref: str | None = None,
        retry: Mapping[str, Any] | None = None,
        run_at: datetime | None = None,
        delay_seconds: float | None = None,
        deadline_at: datetime | None = None,
        expires_after_seconds: float | None = None,
        unique_for_seconds: float | None = None,
        callback_url: str | None = None,
        callback_events: Iterable[str] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Hand in a job, and return it as it is stored: from then on it is never lost.

        Args:
            kind: Such as `check`; `kinds.list()` has all.
            args: As the kind says.
            lane: `interactive`, unless you say `bulk`.
            unique_for_seconds: Answer with a job that asks for the same, if there was one within that time.
            idempotency_key: Your own name for this request; handed in again within a day, it is the same job.

        Raises:
            Invalid: an argument is wrong; `problem.errors` names it.
        """
        document = document_of(
            kind=kind,
            args=args,
            lane=lane,
            labels=labels,
            ref=ref,
            retry=retry,
            run_at=run_at,
            delay_seconds=delay_seconds,
            deadline_at=deadline_at,
            expires_after_seconds=expires_after_seconds,
            unique_for_seconds=unique_for_seconds,
            callback_url=callback_url,
            callback_events=None if callback_events is None else list(callback_events),
        )
        return self._post(Job, "/jobs", json=document, idempotency_key=idempotency_key)

    def get(self, job: Job | str) -> Job:
        """Return a job as it is now, with every attempt.

        Raises:
            NotFound: there is none.
        """
        return self._get(Job, f"/jobs/{id_of(job)}")

    def wait(self, job: Job | str, *, timeout_seconds: float | None = None) -> Job:
        """Return a job when it has ended. The service is asked to answer then: nothing is polled.

        Args:
            timeout_seconds: For how long at most; None for ever.

        Raises:
            NotFinished: it has not ended by then; `last` is how it is.
        """
        ends_at = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            seconds = _next_wait(ends_at)
            path = f"/jobs/{id_of(job)}"
            found = read(
                Job,
                self._transport.document(
                    "GET", path, params=query_of(wait=seconds), wait_seconds=seconds
                ),
            )
            if found.is_ended:
                return found
            if ends_at is not None and time.monotonic() >= ends_at:
                raise NotFinished(f"The job {found.id} has not ended: {found.explanation}", found)

    def list(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        host: str | None = None,
        url: str | None = None,
        reason: str | None = None,
        ref: str | None = None,
        labels: Labels | None = None,
        batch: Batch | str | None = None,
        schedule: Schedule | str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = PAGE,
    ) -> Iterator[Job]:
        """Return the jobs that match, newest first, read page by page as you go on."""
        return self.pages(
            Job,
            "/jobs",
            page_size=page_size,
            state=state,
            kind=kind,
            host=host,
            url=url,
            reason=reason,
            ref=ref,
            label=label_texts(labels),
            batch_id=None if batch is None else id_of(batch),
            schedule_id=None if schedule is None else id_of(schedule),
            created_after=created_after,
            created_before=created_before,
        )

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job: at once when it waits, by its worker when it runs.

        Raises:
            Conflict: it has succeeded or is parked.
        """
        return self._post(Job, f"/jobs/{id_of(job)}/cancel")

    def redrive(self, job: Job | str, *, args: Mapping[str, Any] | None = None) -> Job:
        """Send a parked job back, with other arguments if you give any.

        Raises:
            Conflict: it is not parked.
        """
        body = None if args is None else {"args": dict(args)}
        return self._decide(job, "redrive", json=body)

    def discard(self, job: Job | str) -> Job:
        """End a parked job for good.

        Raises:
            Conflict: it is not parked.
        """
        return self._decide(job, "discard")

    def output(self, job: Job | Task | str) -> Output:
        """Return what a command or task has written so far."""
        return self._get(Output, f"/jobs/{id_of(job)}/output")

    @contextmanager
    def body(self, job: Job | str) -> Iterator[httpx2.Response]:
        """Yield the answer with what a fetch brought back: read it with `read()`, or bit by bit."""
        with self._transport.stream(f"/jobs/{id_of(job)}/body") as response:
            yield response

    def pages_of(self, job: Job | str) -> PagedFetch:
        """Return how far a paged fetch is, and whether its pages have all that there is."""
        return self._get(PagedFetch, f"/jobs/{id_of(job)}/pages")

    def items(self, job: Job | str, *, distinct: bool = False) -> Iterator[Any]:
        """Yield the items of a paged fetch, in the order of its pages."""
        params = query_of(distinct=distinct or None)
        with self._transport.stream(f"/jobs/{id_of(job)}/items", params=params) as response:
            for line in response.iter_lines():
                if line:
                    yield json.loads(line)

    def _decide(self, job: Job | str, action: str, **request: Any) -> Job:
        try:
            return self._post(Job, f"/jobs/{id_of(job)}/{action}", **request)
        except Conflict as error:
            if error.tries == 1:
                raise
            # The answer to an earlier try was lost, and it was done then.
            return self.get(job)


class Batches(Resource):
    """Batches: jobs that are handed in together."""

    def submit(
        self,
        kind: str,
        items: Iterable[Item] | Iterable[Item],
        *,
        defaults: Mapping[str, Any] | None = None,
        lane: str | None = None,
        labels: Labels | None = None,
        retry: Mapping[str, Any] | None = None,
        strict: bool | None = None,
        dedupe: bool | None = None,
        reuse_within_seconds: float | None = None,
        delay_seconds: float | None = None,
        expires_after_seconds: float | None = None,
        callback_url: str | None = None,
        callback_events: Iterable[str] | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Hand in any number of jobs of one kind, and return their batch.

        The items are read once, and kept on disk when they are many: memory stays the same, and a request
        that is sent again is the same. What an item lacks is taken from `defaults`.

        Args:
            items: URLs, or the arguments of each job, with its `ref` if it has one.
            strict: Store nothing when an item is not valid, instead of the others; see `batch.rejected`.
            reuse_within_seconds: Ask for no URL that a check found good within this time, singly or in a
                batch with this argument; such a job is `same_as` the one that asked.

        Raises:
            Invalid: no item is valid, or one is not and it is strict.
        """
        params = query_of(
            kind=kind,
            defaults=dict(defaults) if defaults else None,
            lane=lane,
            labels=dict(labels) if labels else None,
            retry=dict(retry) if retry else None,
            strict=strict,
            dedupe=dedupe,
            reuse_within_seconds=reuse_within_seconds,
            delay_seconds=delay_seconds,
            expires_after_seconds=expires_after_seconds,
            callback_url=callback_url,
            callback_events=None if callback_events is None else json.dumps([*callback_events]),
        )
        spool = LineSpool()
        try:
            if isinstance(items, Iterable):
                for item in items:
                    spool.add(item)
            else:
                for item in items:
                    spool.add(item)
            return self._post(
                Batch,
                "/batches",
                params=params,
                spool=spool,
                headers={"Content-Type": NDJSON},
                idempotency_key=idempotency_key,
            )
        finally:
            spool.close()

    def get(self, batch: Batch | str) -> Batch:
        """Return a batch as it is now.

        Raises:
            NotFound: there is none.
        """
        return self._get(Batch, f"/batches/{id_of(batch)}")

    def wait(
        self,
        batch: Batch | str,
        *,
        timeout_seconds: float | None = None,
        on_progress: Callable[[Batch], object] | None = None,
    ) -> Batch:
        """Return a batch when all its jobs have ended.

        Args:
            timeout_seconds: For how long at most; None for ever.
            on_progress: Called with the batch every two seconds or so.

        Raises:
            NotFinished: not all have ended by then; `last` is how it is.
        """
        ends_at = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            seconds = _next_wait(ends_at, most=2 if on_progress else POLL_SECONDS)
            path = f"/batches/{id_of(batch)}"
            found = read(
                Batch,
                self._transport.document(
                    "GET", path, params=query_of(wait=seconds), wait_seconds=seconds
                ),
            )
            if on_progress is not None:
                on_progress(found)
            if found.is_ended:
                return found
            if ends_at is not None and time.monotonic() >= ends_at:
                left = f"{found.total - found.ended} of {found.total} jobs"
                raise NotFinished(f"{left} of the batch {found.id} have not ended", found)

    def list(self, *, labels: Labels | None = None, page_size: int = PAGE) -> Iterator[Batch]:
        """Return the batches that match, newest first, read page by page as you go on."""
        return self.pages(Batch, "/batches", page_size=page_size, label=label_texts(labels))

    def rejected(self, batch: Batch | str, *, page_size: int = PAGE) -> Iterator[RejectedLine]:
        """Return the items that became no job, in their order."""
        return self.pages(RejectedLine, f"/batches/{id_of(batch)}/rejected", page_size=page_size)

    def results(self, batch: Batch | str, *, as_they_end: bool = False) -> Stream[Job]:
        """Yield the jobs of a batch, without their attempts; whatever breaks meanwhile, each once.

        Args:
            as_they_end: In the order in which they end, until all have. Otherwise all as they are now, in the
                order of the items.
        """
        found = self._as_they_end(id_of(batch)) if as_they_end else self._as_they_are(id_of(batch))
        with closing(found):
            for job in found:
                yield job

    def cancel(self, batch: Batch | str) -> Batch:
        """Cancel all jobs of a batch that have not ended."""
        return self._post(Batch, f"/batches/{id_of(batch)}/cancel")

    def redrive(self, batch: Batch | str) -> Operation:
        """Send all parked jobs of a batch back; follow the operation that this returns."""
        return self._post(Operation, f"/batches/{id_of(batch)}/redrive")

    def _as_they_are(self, batch_id: str) -> Stream[Job]:
        last, failures = "", 0
        while True:
            try:
                with self._transport.stream(f"/batches/{batch_id}/results") as response:
                    for line in response.iter_lines():
                        if line and (job := read(Job, json.loads(line))).id > last:
                            yield job
                            last, failures = job.id, 0
            except ConnectionFailed:
                failures += 1
                if failures > self._transport.retries:
                    raise
                sleep(_AGAIN_SECONDS)
            else:
                return

    def _as_they_end(self, batch_id: str) -> Stream[Job]:
        events = Events(self._transport, after="0", batch_id=batch_id, tell_of_rests=True)
        with closing(events.read()) as told:
            for event in told:
                if event.job is not None:
                    yield event.job
                elif (event.batch or self.get(batch_id)).is_ended:
                    # It is complete, or was when there was nothing more to tell; the rest is read below.
                    break
        rest = Events(self._transport, after=events.after, batch_id=batch_id, follow=False)
        for event in rest.read():
            if event.job is not None:
                yield event.job


REST = "rest"
"""The type of an event that says only that there is nothing more to tell for now."""


class Events:
    """A stream of ends that comes back by itself; `after` is the place of the last one."""

    def __init__(
        self,
        transport: Transport,
        *,
        after: str | None = None,
        follow: bool = True,
        keep_on: bool = False,
        tell_of_rests: bool = False,
        **params: Any,
    ) -> None:
        self._transport = transport
        self.after = after
        self._follow = follow
        self._keep_on = keep_on
        self._tell_of_rests = tell_of_rests
        self._params = params

    def read(self) -> Stream[Event]:
        """Yield events, each once; without `follow` until all were told, else for ever."""
        failures = 0
        while True:
            headers = {"Accept": "text/event-stream"}
            if self.after is not None:
                headers["Last-Event-ID"] = self.after
            params = query_of(follow=None if self._follow else False, **self._params)
            try:
                with (
                    self._transport.stream("/events", params=params, headers=headers) as response,
                    closing(_server_sent(response)) as sent,
                ):
                    for place, name, data in sent:
                        failures = 0
                        if place:
                            self.after = place
                        if data:
                            yield _event(place, name, data)
                        elif self._tell_of_rests:
                            yield Event(id=place, type=REST)
                if not self._follow:
                    return
            except (ConnectionFailed, TooManyRequests, Unavailable):
                failures += 1
                is_known = self._keep_on and self.after is not None
                if failures > self._transport.retries and not is_known:
                    raise
            sleep(_AGAIN_SECONDS)


class Parked(Resource):
    """The parking lot: jobs that were given up."""

    def groups(
        self,
        *,
        kind: str | None = None,
        host: str | None = None,
        reason: str | None = None,
        batch: Batch | str | None = None,
        limit: int | None = None,
    ) -> ParkedGroups:
        """Return the largest groups of parked jobs."""
        batch_id = None if batch is None else id_of(batch)
        return self._get(
            ParkedGroups, "/parked", kind=kind, host=host, reason=reason, batch_id=batch_id, limit=limit
        )

    def count(self, **which: Any) -> int:
        """Return how many parked jobs match; the arguments are those of `redrive`."""
        document = {"filter": _parked_filter(**which), "dry_run": True}
        found = self._transport.document("POST", "/parked/redrive", json=document)
        return int(found["matching"])

    def redrive(self, *, rate_per_second: int | None = None, **which: Any) -> Operation:
        """Send all parked jobs back that match, at a rate; follow the operation that this returns.

        Args:
            rate_per_second: Jobs a second.
            which: `kind`, `host`, `reason`, `group`, `batch`, `ids`, `older_than_seconds`, `parked_after`,
                `parked_before`; each must match, and there must be one. `older_than_seconds=0` is all.
        """
        return self._begin("redrive", rate_per_second, which)

    def discard(self, *, rate_per_second: int | None = None, **which: Any) -> Operation:
        """End all parked jobs that match for good; the arguments are those of `redrive`."""
        return self._begin("discard", rate_per_second, which)

    def _begin(self, action: str, rate_per_second: int | None, which: Mapping[str, Any]) -> Operation:
        document = document_of(filter=_parked_filter(**which), rate_per_second=rate_per_second)
        return self._post(Operation, f"/parked/{action}", json=document)


class Operations(Resource):
    """Operations: what is done with many jobs, at a rate."""

    def begin(self, action: str, *, rate_per_second: int | None = None, **which: Any) -> Operation:
        """Begin to `cancel` all jobs that match and have not ended, or to `redrive` or `discard` parked ones.

        Args:
            action: What to do.
            rate_per_second: Jobs a second.
            which: `kind`, `host`, `reason`, `url`, `ref`, `labels`, `batch`, `schedule`, `created_after`,
                `created_before`, as of `jobs.list`; each must match, and there must be one.
        """
        document = document_of(action=action, filter=_job_filter(**which), rate_per_second=rate_per_second)
        return self._post(Operation, "/operations", json=document)

    def count(self, action: str, **which: Any) -> int:
        """Return with how many jobs it would be done; the arguments are those of `begin`."""
        document = {"action": action, "filter": _job_filter(**which), "dry_run": True}
        found = self._transport.document("POST", "/operations", json=document)
        return int(found["matching"])

    def get(self, operation: Operation | str) -> Operation:
        """Return an operation as it is now."""
        return self._get(Operation, f"/operations/{id_of(operation)}")

    def list(self, *, page_size: int = PAGE) -> Iterator[Operation]:
        """Return operations, newest first, read page by page as you go on."""
        return self.pages(Operation, "/operations", page_size=page_size)

    def wait(
        self,
        operation: Operation | str,
        *,
        timeout_seconds: float | None = None,
        on_progress: Callable[[Operation], object] | None = None,
    ) -> Operation:
        """Return an operation when it is done or cancelled.

        Raises:
            NotFinished: it goes on; `last` is how it is.
        """
        ends_at = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        pause_seconds = _FIRST_LOOK_SECONDS
        while True:
            found = self.get(operation)
            if on_progress is not None:
                on_progress(found)
            if found.is_ended:
                return found
            if ends_at is not None and time.monotonic() >= ends_at:
                raise NotFinished(f"{found.done} of {found.total} jobs are done", found)
            sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LOOK_SECONDS)

    def cancel(self, operation: Operation | str) -> Operation:
        """End an operation early; what it has done stays done.

        Raises:
            Conflict: it has done all.
        """
        return self._post(Operation, f"/operations/{id_of(operation)}/cancel")


class Schedules(Resource):
    """Schedules: jobs and batches that are submitted again and again."""

    def create(
        self,
        *,
        name: str | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        every_seconds: int | None = None,
        starts_at: datetime | None = None,
        job: Mapping[str, Any] | None = None,
        batch: Mapping[str, Any] | None = None,
        overlap: str | None = None,
        catch_up: str | None = None,
        labels: Labels | None = None,
        idempotency_key: str | None = None,
    ) -> Schedule:
        """Make a schedule of a job or a batch, as documents that `POST /jobs` and `POST /batches` take."""
        document = document_of(
            name=name,
            cron=cron,
            timezone=timezone,
            every_seconds=every_seconds,
            starts_at=starts_at,
            job=job,
            batch=batch,
            overlap=overlap,
            catch_up=catch_up,
            labels=labels,
        )
        return self._post(Schedule, "/schedules", json=document, idempotency_key=idempotency_key)

    def get(self, schedule: Schedule | str) -> Schedule:
        """Return a schedule as it is now."""
        return self._get(Schedule, f"/schedules/{id_of(schedule)}")

    def list(self, *, page_size: int = PAGE) -> Iterator[Schedule]:
        """Return schedules, newest first, read page by page as you go on."""
        return self.pages(Schedule, "/schedules", page_size=page_size)

    def pause(self, schedule: Schedule | str) -> Schedule:
        """Let it make no runs until it is resumed."""
        return self._post(Schedule, f"/schedules/{id_of(schedule)}/pause")

    def resume(self, schedule: Schedule | str) -> Schedule:
        """Let it make runs again."""
        return self._post(Schedule, f"/schedules/{id_of(schedule)}/resume")

    def run(self, schedule: Schedule | str) -> Schedule:
        """Let it make a run now, beside its times."""
        return self._post(Schedule, f"/schedules/{id_of(schedule)}/run")

    def delete(self, schedule: Schedule | str) -> None:
        """Delete it; what it has made stays."""
        try:
            self._transport.request("DELETE", f"/schedules/{id_of(schedule)}")
        except NotFound as error:
            if error.tries == 1:
                raise
            # The answer to an earlier try was lost.


class Tasks(Resource):
    """Tasks: work that agents pick."""

    def submit(
        self,
        *,
        queue: str | None = None,
        command: Any = None,
        payload: Any = None,
        lane: str | None = None,
        labels: Labels | None = None,
        ref: str | None = None,
        retry: Mapping[str, Any] | None = None,
        delay_seconds: float | None = None,
        expires_after_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> Task:
        """Hand in a task: a command for an agent, or a payload of any JSON for your own."""
        document = document_of(
            queue=queue,
            command=command,
            payload=payload,
            lane=lane,
            labels=labels,
            ref=ref,
            retry=retry,
            delay_seconds=delay_seconds,
            expires_after_seconds=expires_after_seconds,
        )
        return self._post(Task, "/tasks", json=document, idempotency_key=idempotency_key)

    def get(self, task: Task | LeasedTask | str) -> Task:
        """Return a task as it is now, with every attempt."""
        return self._get(Task, f"/tasks/{id_of(task)}")

    def list(
        self,
        *,
        queue: str | None = None,
        state: str | None = None,
        ref: str | None = None,
        labels: Labels | None = None,
        page_size: int = PAGE,
    ) -> Iterator[Task]:
        """Return the tasks that match, newest first, read page by page as you go on."""
        return self.pages(
            Task, "/tasks", page_size=page_size, queue=queue, state=state, ref=ref, label=label_texts(labels)
        )

    def abort(self, task: Task | str) -> Task:
        """Cancel a task: at once when it waits; its agent is told when it extends its lease."""
        return self._post(Task, f"/tasks/{id_of(task)}/abort")

    def pick(
        self,
        *,
        agent: str,
        queue: str | None = None,
        most: int = 1,
        lease_seconds: float | None = None,
        wait_seconds: float = 0.0,
    ) -> list_of[LeasedTask]:
        """Return tasks to do, each with its lease, the moment there are any; none after so long.

        A pick whose answer is lost is not made good: its tasks come back when their leases have run out.

        Args:
            agent: Your name, for those who look at the task.
            wait_seconds: At most 60.
        """
        document = document_of(
            agent=agent, queue=queue, max=most, lease_seconds=lease_seconds, wait_seconds=wait_seconds or None
        )
        found = self._transport.document(
            "POST", "/tasks/pick", json=document, wait_seconds=wait_seconds
        )
        return [read(LeasedTask, each) for each in found["tasks"]]

    def extend(
        self, task: LeasedTask, *, lease_seconds: float | None = None, output: Mapping[str, Any] | None = None
    ) -> Extension:
        """Hold a task for longer, and hear whether somebody wants it to end.

        Raises:
            Conflict: the lease is not yours any more: stop.
        """
        document = document_of(token=task.lease.token, lease_seconds=lease_seconds, output=output)
        return self._post(Extension, f"/tasks/{task.id}/extend", json=document)

    def finish(self, task: LeasedTask, *, output: Any = None, **said: Any) -> Task:
        """Report that a task is done; the same once more changes nothing.

        Args:
            output: Any JSON.
            said: What else `POST /tasks/{id}/finish` takes, such as `exit_code`, `stdout` and `stderr`.

        Raises:
            Conflict: the lease is not yours any more.
        """
        document = document_of(token=task.lease.token, output=output, **said)
        return self._post(Task, f"/tasks/{task.id}/finish", json=document)

    def fail(self, task: LeasedTask, **said: Any) -> Task:
        """Report that a task could not be done; it is tried again, or parked.

        Args:
            task: The task.
            said: What `POST /tasks/{id}/fail` takes, such as `reason` and `retry_after_seconds`.

        Raises:
            Conflict: the lease is not yours any more.
        """
        return self._post(
            Task, f"/tasks/{task.id}/fail", json=document_of(token=task.lease.token, **said)
        )


def _next_wait(ends_at: float | None, *, most: int = POLL_SECONDS) -> int:
    """Return for how many seconds the service is asked to wait next."""
    if ends_at is None:
        return most
    return max(0, min(most, round(ends_at - time.monotonic() + 0.49)))


def _job_filter(*, batch: Any = None, schedule: Any = None, **which: Any) -> dict[str, Any]:
    return document_of(
        batch_id=None if batch is None else id_of(batch),
        schedule_id=None if schedule is None else id_of(schedule),
        **which,
    )


def _parked_filter(*, batch: Any = None, **which: Any) -> dict[str, Any]:
    return document_of(batch_id=None if batch is None else id_of(batch), **which)


def _server_sent(response: httpx2.Response) -> Stream[tuple[str, str, str]]:
    """Yield place, name and data of each event; without data it only says where to go on."""
    for each in httpx2.EventSource(response):
        yield each.id, each.event, each.data


def _event(place: str, name: str, data: str) -> Event:
    document = json.loads(data)
    if name.startswith("batch."):
        return Event(id=place, type=name, batch=read(Batch, document), raw=document)
    return Event(id=place, type=name, job=read(Job, document), raw=document)


def read_audit(transport: Transport, target: str | None, page_size: int) -> Iterator[AuditEntry]:
    """Return the entries of the audit log, newest first."""
    return Resource(transport).pages(AuditEntry, "/audit", page_size=page_size, target=target)
