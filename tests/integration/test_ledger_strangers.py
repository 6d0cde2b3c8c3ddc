"""What strangers say of stored jobs is not believed: they lack the token of its run."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import product
from typing import Any

import aio_pika
import pytest
import sqlalchemy as sa

from consumer.settlement import report_message
from deploy.compose.make_secrets import PUBLISHER_USER
from producer.store import parking, submissions
from producer.store.database import Database
from producer.store.schema import jobs
from shared.broker.outgoing import Outgoing
from shared.broker.topology import DEAD, JOBS, LARGE_RESULTS, PARKED_QUEUE, RESULTS
from shared.identity import new_id
from shared.messages import JOB_TYPE, RAW_TYPE, REPORT_TYPE, JobMessage
from shared.outcomes import Cancelled, Failed, Outcome, Succeeded
from shared.states import JobState
from tests.support.amqp import get_message, message_count, open_channel
from tests.support.factories import TOKENS, make_job, make_report
from tests.support.logins import broker_logins
from tests.support.management import Management
from tests.support.recording_ledger import STARTED_AT, Ledger, make_message, open_ledger, settled

FORGED = Succeeded({"verdict": "forged"})
FAILED = Failed("http_503", "Down.", transient=True)
GONE = Failed("http_404", "Gone.", transient=False)


@pytest.fixture
async def ledger(store: Database, vhost_url: str) -> AsyncIterator[Ledger]:
    """Yield a ledger whose recorder does not run yet."""
    async with open_ledger(store, vhost_url) as opened:
        yield opened


def of_a_stranger(job: JobMessage, **fields: Any) -> JobMessage:
    """Return what somebody makes of a job of whom he knows all but the token."""
    return job.model_copy(update={"token": None, **fields})


def lone(exchange: str, body: bytes, of_type: str = REPORT_TYPE) -> Outgoing:
    return Outgoing(exchange, "check.interactive.succeeded", body, of_type)


async def test_what_a_stranger_says_of_a_job_changes_nothing(ledger: Ledger) -> None:
    outcomes: list[Outcome] = [FORGED, FAILED, GONE, Cancelled()]
    said = list(product(outcomes, ("none", "wrong", "of another run"), (1, 2, 999_999)))
    victims = [ledger.submit() for _ in said]
    for job, (outcome, which, run) in zip(victims, said, strict=True):
        token = {"none": None, "wrong": "0" * 32, "of another run": TOKENS.of(job.id, run + 1)}[which]
        await ledger.settle(of_a_stranger(job, token=token, run=run), outcome)

    async with ledger.recording():
        await ledger.have_put_aside(len(said), reason="token")
        untouched = [ledger.job(job.id) for job in victims]
        for job in victims:
            await ledger.settle(job, Succeeded({"verdict": "ok"}))
        done = [await ledger.job_in(job.id, JobState.SUCCEEDED) for job in victims]

    assert [(job.state, job.run, job.attempts) for job in untouched] == [(JobState.QUEUED, 1, [])] * len(said)
    assert [(job.result, len(job.attempts)) for job in done] == [({"verdict": "ok"}, 1)] * len(said)


async def test_a_finished_result_is_not_replaced_by_a_report_of_a_later_run(ledger: Ledger) -> None:
    job = ledger.submit()
    async with ledger.recording():
        await ledger.settle(job, Succeeded({"verdict": "ok"}))
        done = await ledger.job_in(job.id, JobState.SUCCEEDED)

        await ledger.publish(of_a_stranger(job, run=2).encode(), "check.interactive")
        # As the worker does that was given it.
        await ledger.settle(of_a_stranger(job, run=2), FORGED)
        await ledger.all_recorded()

    assert ledger.job(job.id) == done


async def test_a_job_that_was_never_sent_out_is_moved_by_no_report(ledger: Ledger) -> None:
    scheduled, accepted = make_job(due_at=STARTED_AT), make_job()
    ledger.store.write(submissions.insert_jobs, [scheduled, accepted])
    before = [ledger.job(job.id) for job in (scheduled, accepted)]

    for job in (scheduled, accepted):
        for token in (None, "0" * 32, TOKENS.of(job.id, 2)):
            forged = JobMessage(id=job.id, kind="check", args={}, token=token)
            for outcome in (FORGED, FAILED, GONE, Cancelled()):
                await ledger.settle(forged, outcome)
        await ledger.publisher.publish(lone(DEAD, b"?", RAW_TYPE)._replace(job_id=str(job.id)))
    async with ledger.recording():
        await ledger.have_put_aside(2 * 3 * 4, reason="token")
        await ledger.all_recorded()

    assert [ledger.job(job.id) for job in (scheduled, accepted)] == before
    assert [job.state for job in before] == [JobState.SCHEDULED, JobState.ACCEPTED]


async def test_what_a_publisher_says_of_others_jobs_changes_none_of_them(
    ledger: Ledger, management: Management, vhost: str, vhost_url: str
) -> None:
    victims = [ledger.submit() for _ in range(6)]
    past = STARTED_AT - timedelta(days=9)
    changes: list[dict[str, Any]] = [
        {},
        {"run": 2, "attempt": 1_000},
        {"expires_at": past},
        {"args": {"url": "https://forged.example/"}},
        {"batch_id": new_id(), "ref": "forged"},
        # As if a worker had parked it.
        {"report": make_report(victims[5].id, JobState.PARKED)},
    ]
    before = [ledger.job(job.id) for job in victims]

    with broker_logins(management, vhost, vhost_url) as logins:
        async with open_channel(logins[PUBLISHER_USER]) as channel:
            for job, change in zip(victims, changes, strict=True):
                message = aio_pika.Message(of_a_stranger(job, **change).encode(), type=JOB_TYPE)
                await aio_pika.Exchange(channel, JOBS).publish(message, "check.bulk", mandatory=True)
        async with ledger.recording():
            await ledger.all_recorded()
            after = [ledger.job(job.id) for job in victims]
            for job in victims:
                await ledger.settle(job, Succeeded({"verdict": "ok"}))
            done = [await ledger.job_in(job.id, JobState.SUCCEEDED) for job in victims]

    assert after == before
    assert [(job.run, len(job.attempts)) for job in done] == [(1, 1)] * 6
    assert ledger.stored() == 6 + 1


async def test_a_publisher_of_checks_begins_nothing_else(ledger: Ledger) -> None:
    forged = make_message().model_copy(update={"kind": "command", "args": {"argv": ["true"]}})

    async with ledger.recording():
        await ledger.publish(forged.encode(), "check.bulk")
        await ledger.all_recorded()

    # The one by which all is known to be recorded.
    assert ledger.stored() == 1


async def test_a_running_report_a_broken_copy_and_garbage_touch_no_job(ledger: Ledger) -> None:
    job = ledger.submit()
    forged = of_a_stranger(job)
    report = make_report(job.id, JobState.SUCCEEDED)
    bare = {"id": str(job.id), "run": 1}
    for message in (
        report_message(forged, make_report(job.id, JobState.RUNNING)),
        # Without a job, as version 0.1.0 understood it.
        lone(RESULTS, report.encode()),
        lone(LARGE_RESULTS, report.encode()),
        # As if the broker had given it up.
        lone(DEAD, forged.encode(), JOB_TYPE),
        *(
            lone(DEAD, body, RAW_TYPE)._replace(job_id=str(job.id))
            for body in (b"?", json.dumps(bare).encode(), json.dumps({**bare, "token": "0" * 32}).encode())
        ),
    ):
        await ledger.publisher.publish(message)

    async with ledger.recording():
        # All are there for a person to see, and two of them are garbage.
        for _ in range(7):
            await get_message(ledger.channel, PARKED_QUEUE)
        await ledger.have_put_aside(5, reason="token")
        await ledger.all_recorded()

    assert (ledger.job(job.id).state, ledger.job(job.id).attempts) == (JobState.QUEUED, [])


async def test_a_report_that_is_not_believed_is_put_aside_as_it_came_and_holds_up_none_beside_it(
    ledger: Ledger,
) -> None:
    first, victim, last = ledger.submit(), ledger.submit(), ledger.submit()
    lines = [settled(job, FORGED).body for job in (first, of_a_stranger(victim), last)]
    await ledger.report(*lines)

    async with ledger.recording():
        parked = await get_message(ledger.channel, PARKED_QUEUE)
        for job in (first, last):
            await ledger.job_in(job.id, JobState.SUCCEEDED)
        await ledger.all_recorded()

    assert parked.body.split(b"\n") == lines
    assert ledger.job(victim.id).state is JobState.QUEUED
    assert await message_count(ledger.channel, PARKED_QUEUE) == 0


async def test_a_message_that_the_recorder_fails_on_is_put_aside_and_holds_up_none_beside_it(
    ledger: Ledger,
) -> None:
    spoilt, beside = ledger.submit(), ledger.submit()
    with ledger.store.writing() as connection:
        # No event can tell of the end of such a job.
        connection.execute(sa.update(jobs).where(jobs.c.id == spoilt.id).values(kind="No kind"))
    said = {"id": str(spoilt.id), "run": 1, "token": spoilt.token}
    await ledger.publisher.publish(lone(DEAD, json.dumps(said).encode(), RAW_TYPE))
    await ledger.settle(beside, Succeeded({"verdict": "ok"}))

    async with ledger.recording():
        await ledger.job_in(beside.id, JobState.SUCCEEDED)
        await ledger.have_put_aside(1, reason="failed")

    assert ledger.job(spoilt.id).state is JobState.QUEUED


async def test_a_stranger_who_begins_a_job_far_on_its_way_is_not_adopted(ledger: Ledger) -> None:
    far = [make_message().model_copy(update=far_on) for far_on in ({"run": 999_999}, {"attempt": 1_001})]

    async with ledger.recording():
        for message in far:
            await ledger.publish(message.encode())
            await ledger.settle(message, GONE)
        await ledger.all_recorded()

    # The one by which all is known to be recorded.
    assert ledger.stored() == 1


async def test_a_job_of_a_third_party_needs_no_token_until_it_is_redriven(ledger: Ledger) -> None:
    third_party = make_message().model_copy(update={"ref": "a.md:7"})
    async with ledger.recording():
        await ledger.publish(third_party.encode())
        await ledger.settle(third_party, GONE)
        await ledger.job_in(third_party.id, JobState.PARKED)
        ledger.store.write(parking.redrive, third_party.id, now=STARTED_AT, project=None)

        await ledger.settle(third_party.model_copy(update={"run": 2}), FORGED)
        await ledger.all_recorded()
        redriven = ledger.job(third_party.id)
        ours = third_party.model_copy(update={"run": 2, "token": TOKENS.of(third_party.id, 2)})
        await ledger.settle(ours, Succeeded({"verdict": "ok"}))
        done = await ledger.job_in(third_party.id, JobState.SUCCEEDED)

    assert (redriven.state, redriven.run) == (JobState.ACCEPTED, 2)
    assert (done.run, done.result, done.ref) == (2, {"verdict": "ok"}, "a.md:7")


async def test_a_job_of_the_version_before_ends_without_a_token_and_no_later_run_of_it_does(
    ledger: Ledger,
) -> None:
    job = ledger.submit()
    with ledger.store.writing() as connection:
        connection.execute(sa.update(jobs).values(token_from_run=None))

    async with ledger.recording():
        await ledger.settle(of_a_stranger(job, run=2), FORGED)
        await ledger.settle(of_a_stranger(job), GONE)
        parked = await ledger.job_in(job.id, JobState.PARKED)
        ledger.store.write(parking.redrive, job.id, now=STARTED_AT, project=None)
        await ledger.settle(of_a_stranger(job, run=2), FORGED)
        await ledger.all_recorded()

    assert parked.run == 1
    assert ledger.job(job.id).state is JobState.ACCEPTED
