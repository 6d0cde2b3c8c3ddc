"""The recorder on a real broker: it keeps jobs that somebody else published, whatever comes first."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import aio_pika
import pytest
import sqlalchemy as sa

from consumer.settlement import report_message
from producer.store import bodies as store_bodies
from producer.store import outbox, queries, submissions
from producer.store.database import Database
from shared.broker.bundle import NDJSON, bodies_of, bundled
from shared.broker.outgoing import Outgoing
from shared.broker.topology import (
    DEAD,
    INTERACTIVE_RESULTS_QUEUE,
    JOBS,
    PARKED_QUEUE,
    RECORDER_QUEUE,
    RESULTS,
    WORK_DELIVERY_LIMIT,
    bundle_key,
    bundle_queue,
    stored_key,
    work_queue,
)
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.messages import JOBS_TYPE, RAW_TYPE, REASON_HEADER, REPORT_TYPE, JobMessage, Report
from shared.outcomes import Failed, Succeeded
from shared.states import JobState
from tests.support.amqp import get_message, message_count, running
from tests.support.bodies import compress_body
from tests.support.factories import TOKENS, make_job, make_report
from tests.support.recording_ledger import STARTED_AT, URL, Ledger, make_message, open_ledger, settled

DONE = Succeeded({"verdict": "ok"})


@pytest.fixture
async def ledger(store: Database, vhost_url: str) -> AsyncIterator[Ledger]:
    """Yield a ledger whose recorder does not run yet."""
    async with open_ledger(store, vhost_url) as opened:
        yield opened


async def test_a_job_of_a_third_party_is_kept_as_if_it_had_been_submitted(ledger: Ledger) -> None:
    expires_at = datetime(2030, 1, 1, tzinfo=UTC)
    update = {"batch_id": uuid4(), "expires_at": expires_at}
    message = make_message(args={"url": URL, "timeout_seconds": 5.0}).model_copy(update=update)

    async with ledger.recording():
        await ledger.publish(message.encode())
        job = await ledger.job_in(message.id, JobState.QUEUED)

    assert (job.kind, job.lane, job.retry, job.deadline_at) == (
        message.kind,
        message.lane,
        message.retry,
        expires_at,
    )
    # Normalized, with a host to group it by, and of no batch: nobody has counted it there.
    assert (job.args, job.host) == (
        {"url": "https://third.example/", "timeout_seconds": 5.0},
        "third.example",
    )
    assert (job.batch_id, job.run, job.attempt, job.attempts) == (None, 1, 0, [])


async def test_a_report_that_comes_before_its_job_makes_the_row(ledger: Ledger) -> None:
    done, retried, parked, running_one = make_message(), make_message(), make_message(), make_message()
    await ledger.settle(done, Succeeded({"verdict": "ok"}))
    await ledger.settle(retried, Failed("timeout", "No answer.", transient=True))
    await ledger.settle(parked, Failed("http_404", "Gone.", transient=False))
    started = Report(
        job_id=running_one.id,
        kind="check",
        run=1,
        attempt=1,
        state=JobState.RUNNING,
        started_at=STARTED_AT,
        worker="w",
    )
    await ledger.publisher.publish(report_message(running_one, started))

    async with ledger.recording():
        jobs = [
            await ledger.job_in(done.id, JobState.SUCCEEDED),
            await ledger.job_in(retried.id, JobState.DELAYED),
            await ledger.job_in(parked.id, JobState.PARKED),
            await ledger.job_in(running_one.id, JobState.RUNNING),
        ]
        # The copies come last, and again.
        for message in (done, retried, parked, running_one, done):
            await ledger.publish(message.encode())
        await ledger.all_recorded()

    assert [ledger.store.read(queries.get_job, job.id, project=None) for job in jobs] == jobs
    assert [(job.attempt, len(job.attempts), job.host) for job in jobs] == [(1, 1, "third.example")] * 4
    assert ledger.stored() == 5


async def test_a_job_whose_first_news_is_a_later_attempt_is_kept_from_there(ledger: Ledger) -> None:
    message = make_message(attempt=3)

    async with ledger.recording():
        await ledger.settle(message, Failed("timeout", "No answer.", transient=True))
        job = await ledger.job_in(message.id, JobState.DELAYED)
        await ledger.settle(message.model_copy(update={"attempt": 4}), Succeeded({}))
        done = await ledger.job_in(message.id, JobState.SUCCEEDED)

    assert (job.attempt, [each.number for each in job.attempts]) == (3, [3])
    assert [each.number for each in done.attempts] == [3, 4]


async def test_a_job_that_is_known_is_left_as_it_is(ledger: Ledger) -> None:
    known = make_job()
    ledger.store.write(submissions.insert_jobs, [known])
    # As a relay of before this version publishes it.
    copy = JobMessage(id=known.id, kind="check", args={"url": "https://other.example/"})

    async with ledger.recording():
        await ledger.publish(copy.encode())
        await ledger.all_recorded()

    job = ledger.store.read(queries.get_job, known.id, project=None)
    assert (job.state, job.args, ledger.stored()) == (JobState.ACCEPTED, known.args, 2)


async def test_arguments_that_break_a_rule_are_kept_as_they_came(ledger: Ledger) -> None:
    wrong = make_message(args={"url": 7})
    nul = make_message(args={"url": "https://example.com/\0", "\0": ["\0"]})

    async with ledger.recording():
        for message in (wrong, nul):
            await ledger.publish(message.encode())
            await ledger.settle(message, Failed("arguments_invalid", "url: no \0", transient=False))
        jobs = [await ledger.job_in(message.id, JobState.PARKED) for message in (wrong, nul)]

    assert [job.args for job in jobs] == [wrong.args, nul.args]
    assert [(job.reason, job.host) for job in jobs] == [("arguments_invalid", "")] * 2


async def test_reports_that_travel_together_are_recorded_each(ledger: Ledger) -> None:
    jobs = [make_message(attempt=number) for number in (1, 2, 3)]
    await ledger.report(*(settled(job, DONE).body for job in jobs))

    async with ledger.recording():
        recorded = [await ledger.job_in(job.id, JobState.SUCCEEDED) for job in jobs]
        await ledger.all_recorded()

    assert [job.attempt for job in recorded] == [1, 2, 3]
    assert await message_count(ledger.channel, PARKED_QUEUE) == 0


async def test_a_message_with_a_report_that_nobody_can_read_is_parked_and_all_others_are_recorded(
    ledger: Ledger,
) -> None:
    first, last = make_message(), make_message()
    lines = [settled(first, DONE).body, b'{"version":2}', settled(last, DONE).body]
    await ledger.report(*lines)

    async with ledger.recording():
        parked = await get_message(ledger.channel, PARKED_QUEUE)
        for job in (first, last):
            await ledger.job_in(job.id, JobState.SUCCEEDED)
        # As somebody may put it back.
        await ledger.report(*lines)
        await get_message(ledger.channel, PARKED_QUEUE)

    assert (parked.type, bodies_of(parked.body)) == ("reports", lines)
    assert ledger.stored() == 2


async def test_a_report_that_the_store_refuses_keeps_none_beside_it_from_being_recorded(
    ledger: Ledger,
) -> None:
    refuse(ledger.store, "refused.example")
    first, last = make_message(), make_message()
    refused = make_message(args={"url": "https://refused.example/"})
    await ledger.report(*(settled(job, DONE).body for job in (first, refused, last)))

    async with ledger.recording():
        parked = await get_message(ledger.channel, PARKED_QUEUE)
        for job in (first, last):
            await ledger.job_in(job.id, JobState.SUCCEEDED)

    assert len(bodies_of(parked.body)) == 3
    assert ledger.stored() == 2


async def test_all_jobs_of_a_message_that_the_broker_gives_up_on_are_parked(ledger: Ledger) -> None:
    jobs = [make_job(lane=Lane.BULK) for _ in range(3)]
    ledger.store.write(submissions.insert_jobs, jobs)
    ledger.store.write(outbox.mark_queued, [(job.id, 1) for job in jobs], now=STARTED_AT)
    bodies = [
        JobMessage(id=job.id, kind="check", lane=Lane.BULK, args={}, token=TOKENS.of(job.id, 1)).encode()
        for job in jobs
    ]
    body = bundled([bodies[0], b"garbage", *bodies[1:]])
    await ledger.publisher.publish(Outgoing(JOBS, bundle_key("check"), body, JOBS_TYPE, content_type=NDJSON))
    # As if every worker that takes it died.
    queue = await ledger.channel.get_queue(bundle_queue("check"), ensure=False)
    async with queue.iterator() as deliveries:
        for _ in range(WORK_DELIVERY_LIMIT + 1):
            await (await anext(deliveries)).reject(requeue=True)

    async with ledger.recording():
        parked = [await ledger.job_in(job.id, JobState.PARKED) for job in jobs]
        await ledger.all_recorded()

    assert [(job.reason, job.attempt, job.attempts) for job in parked] == [("delivery_limit", 0, [])] * 3
    assert await message_count(ledger.channel, PARKED_QUEUE) == 1


async def test_a_message_that_somebody_looked_at_in_the_console_says_what_is_known(ledger: Ledger) -> None:
    looked_at, running_one = ledger.submit(), ledger.submit()
    queue = await ledger.channel.get_queue(work_queue("check", Lane.INTERACTIVE), ensure=False)
    for job in (looked_at, running_one):
        await ledger.publisher.publish(
            Outgoing(JOBS, stored_key("check", Lane.INTERACTIVE), job.encode(), "job")
        )
    async with ledger.recording():
        # A worker has begun the second one.
        await ledger.publisher.publish(
            report_message(running_one, make_report(running_one.id, JobState.RUNNING))
        )
        await ledger.job_in(running_one.id, JobState.RUNNING)
        # "Get messages" takes one and gives it back.
        while (message := await queue.get(fail=False)) is not None:
            await message.reject(requeue=True)
        parked = [await ledger.job_in(job.id, JobState.PARKED) for job in (looked_at, running_one)]

    assert [job.reason for job in parked] == ["delivery_limit"] * 2
    assert all("or somebody looked at it in the console" in str(job.explanation) for job in parked)
    assert (parked[0].attempt, parked[0].attempts) == (0, [])
    (made,) = parked[1].attempts
    assert (parked[1].attempt, made.number, made.reason, made.ended_at is None) == (
        1,
        1,
        "delivery_limit",
        False,
    )


async def test_a_message_that_expired_in_its_queue_says_so(ledger: Ledger) -> None:
    third_party = make_message()
    message = aio_pika.Message(third_party.encode(), expiration=0.01)

    async with ledger.recording():
        await aio_pika.Exchange(ledger.channel, JOBS).publish(message, "check.interactive", mandatory=True)
        parked = await ledger.job_in(third_party.id, JobState.PARKED)

    assert (parked.reason, parked.attempt, parked.attempts) == ("expired", 0, [])
    assert "had given it an expiration" in str(parked.explanation)


async def test_what_cannot_be_kept_holds_up_nobody(ledger: Ledger) -> None:
    refuse(ledger.store, "refused.example")
    refused = make_message(args={"url": "https://refused.example/"})
    unknown = refused.model_copy(update={"id": new_id(), "kind": "brew"})
    last = make_message()
    # All in one batch of the recorder: with one that the store refuses each is recorded singly.
    for body in (refused.encode(), unknown.encode(), b"no job", b'{"version":2}', last.encode()):
        await ledger.publish(body)

    async with ledger.recording():
        await ledger.job_in(last.id, JobState.QUEUED)
        await ledger.all_recorded()

    assert ledger.stored() == 2
    # Their messages are in the work queue, where a worker deals with them: not here a second time.
    assert await message_count(ledger.channel, PARKED_QUEUE) == 0


async def test_the_outcome_of_a_job_that_cannot_be_kept_is_parked_for_a_person(ledger: Ledger) -> None:
    refuse(ledger.store, "refused.example")
    await ledger.settle(make_message(args={"url": "https://refused.example/"}), Succeeded({}))

    async with ledger.recording():
        parked = await get_message(ledger.channel, PARKED_QUEUE)

    assert Report.decode(parked.body).state is JobState.SUCCEEDED


async def test_a_job_whose_message_no_worker_can_read_is_parked_with_the_reason(ledger: Ledger) -> None:
    job, done = ledger.submit(), make_job(due_at=STARTED_AT)
    ledger.store.write(submissions.insert_jobs, [done])
    said = "version: Input should be 2"
    # As a worker parks messages of a newer version; the last are of a job that was never published, of nobody
    # and of somebody who knows no more than an id.
    newer = {"version": 2, "run": 1}
    for whose in (
        {"id": str(job.id), "token": job.token},
        {"id": str(job.id), "token": job.token},
        {"id": str(done.id), "token": TOKENS.of(done.id, 1)},
        {"id": str(new_id()), "token": "0" * 32},
        {"id": str(job.id)},
    ):
        body = json.dumps({**newer, **whose}).encode()
        key = "check.interactive.stored"
        await ledger.publisher.publish(
            Outgoing(DEAD, key, body, RAW_TYPE, whose["id"] or "", {REASON_HEADER: said})
        )

    async with ledger.recording():
        parked = await ledger.job_in(job.id, JobState.PARKED)
        await ledger.all_recorded()

    assert (parked.reason, parked.explanation, parked.attempts) == ("message_undecodable", said, [])
    assert (ledger.stored(), ledger.job(done.id).state) == (3, JobState.SCHEDULED)
    assert await message_count(ledger.channel, PARKED_QUEUE) == 5


def refuse(store: Database, host: str) -> None:
    """Let the database take no job of a host, as if a value did not fit its column."""
    statements = {
        "postgresql": f"ALTER TABLE jobs ADD CHECK (host <> '{host}')",
        "sqlite": f"CREATE TRIGGER refusing BEFORE INSERT ON jobs WHEN NEW.host = '{host}' "
        "BEGIN SELECT RAISE(ABORT, 'refused'); END",
    }
    with store.writing() as connection:
        connection.execute(sa.text(statements[connection.dialect.name]))


async def test_a_body_that_is_not_what_a_stranger_says_is_not_kept(ledger: Ledger) -> None:
    true = compress_body(b"the body " * 20_000, content_type="text/plain", charset=None)
    assert true is not None
    bodies = [true, true.model_copy(update={"size": 7}), true.model_copy(update={"content": b"x"})]
    jobs = [make_message() for _ in bodies]

    async with ledger.recording():
        for job, body in zip(jobs, bodies, strict=True):
            await ledger.settle(job, Succeeded({"body_stored": True}, body))
        for job in jobs:
            await ledger.job_in(job.id, JobState.SUCCEEDED)

    kept = [ledger.store.read(store_bodies.find_body, job.id) for job in jobs]
    assert [found is not None for found in kept] == [True, False, False]


async def test_reports_of_the_interactive_lane_pass_those_of_the_bulk_lane(ledger: Ledger) -> None:
    batched = [ledger.submit() for _ in range(3)]
    done, retried, parked = (ledger.submit(lane=Lane.INTERACTIVE) for _ in range(3))
    for job in batched:
        await ledger.settle(job, DONE)
    await ledger.settle(done, DONE)
    await ledger.settle(retried, Failed("timeout", "No answer.", transient=True))
    await ledger.settle(parked, Failed("http_404", "Gone.", transient=False))

    # Nobody has read the other queue, in which these are behind those.
    async with running(ledger.interactive.run()):
        jobs = [
            await ledger.job_in(done.id, JobState.SUCCEEDED),
            await ledger.job_in(retried.id, JobState.DELAYED),
            await ledger.job_in(parked.id, JobState.PARKED),
        ]
        assert {ledger.job(job.id).state for job in batched} == {JobState.QUEUED}
        async with running(ledger.beside_it.run()):
            for job in batched:
                await ledger.job_in(job.id, JobState.SUCCEEDED)
            last = await ledger.all_recorded()

    assert [ledger.job(job.id) for job in jobs] == jobs
    # Each was recorded once, and acked in both queues.
    assert ledger.metrics.reports.labels("changed")._value.get() == 6
    assert ledger.metrics.reports.labels("late")._value.get() == 0
    assert await message_count(ledger.channel, INTERACTIVE_RESULTS_QUEUE) == 0
    for _ in range(await message_count(ledger.channel, RECORDER_QUEUE)):
        assert (await get_message(ledger.channel, RECORDER_QUEUE)).body == last


async def test_what_the_interactive_recorder_cannot_record_is_left_to_the_other(ledger: Ledger) -> None:
    unknown = make_message()
    known = ledger.submit(lane=Lane.INTERACTIVE)
    without_token = known.model_copy(update={"token": None})

    async with running(ledger.interactive.run()), running(ledger.beside_it.run()):
        await ledger.settle(unknown, DONE)
        await ledger.publisher.publish(Outgoing(RESULTS, "check.interactive.succeeded", b"{", REPORT_TYPE))
        await ledger.settle(without_token, DONE)
        adopted = await ledger.job_in(unknown.id, JobState.SUCCEEDED)
        await ledger.have_put_aside(1, reason="undecodable")
        await ledger.have_put_aside(1, reason="token")

    assert adopted.result == DONE.result
    assert ledger.job(known.id).state is JobState.QUEUED
