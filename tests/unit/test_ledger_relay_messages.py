"""The relay puts messages together of what is stored: of each job they say what the model encodes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from producer.ledger.relay_messages import BUNDLE_BYTES, job_message, job_messages
from producer.records import ClaimedJob
from shared.broker.bundle import NDJSON, bodies_of
from shared.broker.outgoing import Outgoing
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.messages import JobMessage, KnownCopy
from shared.retry import RetryPolicy
from tests.support.factories import NOON, TOKENS

PLAIN = ClaimedJob(
    id=new_id(),
    kind="check",
    lane=Lane.BULK,
    args_json='{"url":"https://example.com/\\u00e4?q=\\"{}\\\\"}',
    retry_json=RetryPolicy(max_attempts=9).model_dump_json(),
    run=3,
    batch_id=None,
    deadline_at=None,
    project="default",
)
FULL = ClaimedJob(
    id=new_id(),
    kind="fetch",
    lane=Lane.INTERACTIVE,
    args_json='{"url":"https://example.com/","if_changed":true}',
    # Of a version that knew less, or more.
    retry_json='{"max_attempts":2,"unheard_of":1}',
    run=1,
    batch_id=new_id(),
    deadline_at=NOON + timedelta(hours=1, microseconds=7),
    ref='"docs/é.md":7 \\ 😀',
    known=KnownCopy(job_id=new_id(), etag='W/"1"'),
    project="acme",
)


@pytest.mark.parametrize("job", [PLAIN, FULL])
def test_a_relayed_message_says_what_the_model_says(job: ClaimedJob) -> None:
    ((message, rows),) = job_messages([job], tokens=TOKENS, bundle_jobs=10)

    encoded = job_message(job, tokens=TOKENS).encode()
    assert JobMessage.decode(message.body) == JobMessage.decode(encoded)
    assert json.loads(message.body).keys() == json.loads(encoded).keys()
    assert rows == (job,) and message.job_id == str(job.id)
    assert (message.routing_key, message.type) == (f"{job.kind}.{job.lane}.stored", "job")


def a_job(kind: str = "check", lane: Lane = Lane.BULK, *, url_bytes: int = 20) -> ClaimedJob:
    args = json.dumps({"url": f"https://{'e' * url_bytes}/"})
    return replace(PLAIN, id=new_id(), kind=kind, lane=lane, args_json=args)


def carried(messages: Sequence[Outgoing]) -> list[tuple[str, int]]:
    """Return where each message goes, and how many jobs it carries."""
    return [(message.routing_key, len(bodies_of(message.body))) for message in messages]


def test_jobs_of_the_bulk_lane_share_messages_where_their_kind_lets_them() -> None:
    page = [a_job(kind) for _ in range(7) for kind in ("check", "fetch")]

    packed = list(job_messages(page, tokens=TOKENS, bundle_jobs=3))

    assert carried([message for message, _ in packed]) == [
        ("check.bundles", 3),
        ("check.bundles", 3),
        ("check.bulk.stored", 1),
        *[("fetch.bulk.stored", 1)] * 7,
    ]
    bundle, rows = packed[0]
    assert (bundle.type, bundle.content_type, bundle.job_id) == ("jobs", NDJSON, "")
    # In the order of the page, and every line says what the model says.
    assert [JobMessage.decode(body) for body in bodies_of(bundle.body)] == [
        job_message(job, tokens=TOKENS) for job in rows
    ]
    assert [job for _, rows in packed for job in rows] == page[::2] + page[1::2]


def test_interactive_jobs_come_first_each_in_a_message_of_its_own() -> None:
    page = [a_job(lane=lane) for _ in range(2) for lane in (Lane.BULK, Lane.INTERACTIVE)]

    messages = [message for message, _ in job_messages(page, tokens=TOKENS, bundle_jobs=10)]

    key = "check.interactive.stored"
    assert carried(messages) == [(key, 1), (key, 1), ("check.bundles", 2)]


@pytest.mark.parametrize(
    ("kind", "bundle_jobs"), [("webhook", 10), ("fetch", 10), ("check", 1), ("nosuch", 10)]
)
def test_jobs_that_share_no_message_go_the_way_of_a_single_one(kind: str, bundle_jobs: int) -> None:
    messages = [
        message for message, _ in job_messages([a_job(kind)] * 3, tokens=TOKENS, bundle_jobs=bundle_jobs)
    ]

    assert carried(messages) == [(f"{kind}.bulk.stored", 1)] * 3


def test_a_message_holds_no_more_bytes_than_it_may_and_a_larger_job_goes_alone() -> None:
    third, whole = BUNDLE_BYTES * 3 // 10, BUNDLE_BYTES
    page = [a_job(url_bytes=size) for size in (third, third, third, third, whole, 20, 20)]

    messages = [message for message, _ in job_messages(page, tokens=TOKENS, bundle_jobs=10)]

    assert [count for _, count in carried(messages)] == [3, 1, 1, 2]
    assert max(len(message.body) for message in messages if message.type == "jobs") <= BUNDLE_BYTES


def test_a_page_of_nothing_is_published_as_nothing() -> None:
    assert list(job_messages([], tokens=TOKENS, bundle_jobs=10)) == []
