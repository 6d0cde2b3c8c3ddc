"""A whole paged fetch without broker and store: each page by the handler, the next as the recorder does."""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from consumer.handlers.paged_fetch import fetch_or_page
from consumer.http.client import Client
from producer.api.paged_fetches import paged_fetch
from producer.paged_fetch import (
    Page,
    PageRecord,
    PagesRecord,
    decode_keys,
    following_jobs,
    measure_pages,
    pages_batch_id,
)
from producer.records import BatchRecord
from shared.kinds.fetch import FetchArgs
from shared.outcomes import Succeeded
from shared.states import JobState
from tests.support.factories import NOON, make_record


async def fetch_pages(args: FetchArgs, client: Client) -> Mapping[str, Any]:
    """Return what `GET /jobs/{id}/pages` would say, every page, and all their items."""
    assert args.pages is not None
    root = replace(make_record(), kind="fetch", args=args.model_dump(mode="json"))
    waiting = deque([(0, root)])
    records: list[PageRecord] = []
    ends: list[dict[str, Any]] = []
    items: list[Any] = []
    states: Counter[JobState] = Counter()
    while waiting:
        index, job = waiting.popleft()
        outcome = await fetch_or_page(FetchArgs.model_validate(job.args), client)
        ends.append({"page": index, "reason": getattr(outcome, "reason", None), "outcome": "failed"})
        states[JobState.PARKED] += 1
        if not isinstance(outcome, Succeeded) or outcome.page is None:
            continue
        report = outcome.page
        states.update({JobState.PARKED: -1, JobState.SUCCEEDED: 1})
        ends[-1] |= {"outcome": "succeeded", "items": report.items, "stopped_by": report.stopped_by}
        items += outcome.result["data"]
        keys = decode_keys(report.keys, report.items)
        records.append(PageRecord(index, report.items, report.total, report.stopped_by, keys, NOON))
        if report.following is not None:
            page = Page(root.id, index, args.pages.max_pages)
            made = following_jobs(job, page, report.following, now=NOON)
            waiting += [(one.args["page"]["index"], replace(job, id=one.id, args=one.args)) for one in made]
    root_state = JobState.SUCCEEDED if ends[0]["outcome"] == "succeeded" else JobState.PARKED
    states[root_state] -= 1
    batch = BatchRecord(
        id=pages_batch_id(root.id),
        kind="fetch",
        total=len(ends) - 1,
        labels={},
        counts=states,
        schedule_id=None,
        created_at=NOON,
        finished_at=NOON,
        project="default",
    )
    record = PagesRecord(replace(root, state=root_state), batch, measure_pages(records))
    measured = paged_fetch(record).model_dump(mode="json")
    return {
        **measured,
        "outcome": ends[0]["outcome"],
        "reason": ends[0]["reason"],
        "ends": ends,
        "data": items,
    }
