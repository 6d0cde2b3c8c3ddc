"""A small API with pages of every style, and the way of a paged fetch without a broker between."""

import contextlib
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

from aiohttp import web

from consumer.executor import Attempt
from consumer.handlers.paged_fetch import fetch_or_page
from consumer.http.client import Client
from consumer.settlement import decide, settlement_message
from producer.api.paged_fetches import PagedFetch, paged_fetch
from producer.records import ClaimedJob, JobRecord
from producer.store import batches, outbox, queries, recording, submissions
from producer.store import pages as stored_pages
from producer.store.database import Database
from producer.submission import new_job
from producer.submission_models import JobSubmission
from shared import exact_json
from shared.broker.topology import RESULTS
from shared.clock import utc_now
from shared.identity import new_id
from shared.kinds.fetch import FetchArgs
from shared.messages import JobMessage, Report
from shared.outcomes import Failed

Answer = Callable[[web.Request], web.Response]


class PagedSite:
    """Items 0 to `count`, as pages; a test changes what it needs while pages are read."""

    def __init__(self, count: int = 0) -> None:
        self.items: list[Any] = [{"id": number} for number in range(count)]
        self.asked: list[str] = []
        self.total: Any = None
        """What is said to be the total, when that is not the truth."""
        self.cap = 1_000
        """The greatest page, whatever is asked for."""
        self.failing: Counter[str] = Counter()
        """How often a path with its query still answers 500."""
        self.answers: dict[str, Answer] = {}
        """What else is at a path."""
        self.before: Callable[[web.Request], None] = lambda request: None
        self.heads: list[dict[str, str]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer any request."""
        self.asked.append(request.path_qs)
        self.heads.append(dict(request.headers))
        self.before(request)
        if self.failing[request.path_qs]:
            self.failing[request.path_qs] -= 1
            raise web.HTTPInternalServerError
        if request.path in self.answers:
            return self.answers[request.path](request)
        size = min(int(request.query.get("limit", 10)), self.cap)
        start = int(request.query.get("offset", (int(request.query.get("page", 1)) - 1) * size))
        return self.page(start, size)

    def page(self, start: int, size: int, **more: Any) -> web.Response:
        """Return a page of the items, its total in body and headers."""
        page = self.items[start : start + size]
        total = len(self.items) if self.total is None else self.total
        headers = {"X-Total-Count": str(total), "Content-Range": f"items {start}-{start + size}/{total}"}
        return answer_of({"items": page, "total": total, **more}, headers)


def answer_of(document: Any, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON answer."""
    return web.Response(text=json.dumps(document), content_type="application/json", headers=headers)


@contextlib.asynccontextmanager
async def paged_site(count: int = 0) -> AsyncIterator[PagedSite]:
    """Serve such a site on loopback."""
    site = PagedSite(count)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", site.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    site.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield site
    finally:
        await runner.cleanup()


def submit(store: Database, url: str, pages: dict[str, Any], **fields: Any) -> JobRecord:
    """Store a paged fetch and return it."""
    args = {"url": url, "pages": pages, **fields.pop("args", {})}
    submission = JobSubmission.model_validate({"kind": "fetch", "args": args, **fields})
    job = new_job(submission, job_id=new_id(), now=utc_now(), project="default")
    store.write(submissions.insert_jobs, [job])
    return store.read(queries.get_job, job.id, project=None)


async def work_one(store: Database, client: Client, job: ClaimedJob) -> Report:
    """Do one attempt of a claimed job, and return the report as the recorder reads it."""
    message = JobMessage(
        id=job.id, kind=job.kind, lane=job.lane, args=dict(job.args), retry=job.retry, run=job.run
    )
    message = JobMessage.decode(message.encode())
    started_at = utc_now()
    outcome = await fetch_or_page(FetchArgs.model_validate(message.args), client)
    if isinstance(outcome, Failed):
        # Waits are another test's; here a failure is the end.
        outcome = Failed(outcome.reason, outcome.explanation, transient=False, result=outcome.result)
    attempt = Attempt(started_at, utc_now(), outcome)
    sent = settlement_message(message, attempt, decide(message, attempt, random=lambda: 0.0), worker="test")
    report = Report.decode(sent.body) if sent.exchange == RESULTS else JobMessage.decode(sent.body).report
    assert report is not None
    return report


def claim(store: Database, limit: int = 1_000) -> list[ClaimedJob]:
    """Return the accepted jobs, as the relay gets them."""
    claimed = store.write(outbox.claim_accepted, limit=limit, lease_seconds=60, now=utc_now())
    store.write(outbox.mark_queued, [(job.id, job.run) for job in claimed], now=utc_now())
    return claimed


async def work_all(store: Database, client: Client) -> int:
    """Do all jobs there are and all that follow from them, each report recorded twice; return how many."""
    done = 0
    while jobs := claim(store):
        for job in jobs:
            report = await work_one(store, client, job)
            for _ in range(2):
                store.write(recording.record_reports, [report], now=utc_now() + timedelta(seconds=1))
            done += 1
            assert done < 2_000
    return done


def measured(store: Database, root: JobRecord) -> PagedFetch:
    """Return what the pages of a fetch come to, as the API says it."""
    record = store.read(stored_pages.get_pages, root.id, project=None)
    if record.batch:
        assert store.read(batches.wrong_counts, record.batch.id) == {}
    return paged_fetch(record)


def items(store: Database, root: JobRecord) -> list[Any]:
    """Return the items of all pages, in their order."""
    found: list[Any] = []
    after = -1
    while (page := store.read(stored_pages.next_page_items, root.id, after=after, project=None)) is not None:
        after = page[0]
        found += map(exact_json.loads, page[1])
    return found
