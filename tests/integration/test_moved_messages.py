"""A parked message that somebody moves to a work queue by hand ("Move messages") redrives its job."""

from collections.abc import AsyncIterator
from uuid import UUID

import aio_pika
import pytest
from pydantic import BaseModel

from consumer.politeness.host_limiters import FirstPermit
from producer.store import audit, parking
from producer.store.database import Database
from shared.broker.bundle import bundled
from shared.broker.outgoing import Outgoing
from shared.broker.topology import DEFAULT, PARKED_QUEUE, bundle_queue, work_queue
from shared.errors import JobNotFound
from shared.kinds.registry import Lane
from shared.messages import JOB_TYPE, JOBS_TYPE, JobMessage
from shared.outcomes import Failed, Outcome, Succeeded
from shared.states import JobState
from shared.veiled_args import veiled
from tests.support.amqp import get_message, message_count
from tests.support.factories import TOKENS
from tests.support.recording_ledger import STARTED_AT, Ledger, make_message, open_ledger
from tests.support.secrets import KEYS
from tests.support.worker import working

WORK = work_queue("check", Lane.INTERACTIVE)
GONE = Failed("http_404", "Gone.", transient=False)


@pytest.fixture
async def ledger(store: Database, vhost_url: str) -> AsyncIterator[Ledger]:
    """Yield a ledger whose recorder does not run yet."""
    async with open_ledger(store, vhost_url) as opened:
        yield opened


class Worked:
    """A handler that keeps whose jobs it ran."""

    def __init__(self) -> None:
        self.job_ids: list[UUID] = []

    async def __call__(self, _: BaseModel, job: JobMessage, __: FirstPermit) -> Outcome:
        self.job_ids.append(job.id)
        return Succeeded({})


async def parked_message(ledger: Ledger) -> JobMessage:
    """Park a job, and take its message out of the parking queue."""
    job = ledger.submit()
    await ledger.settle(job, GONE)
    await ledger.job_in(job.id, JobState.PARKED)
    return JobMessage.decode((await get_message(ledger.channel, PARKED_QUEUE)).body)


async def move(ledger: Ledger, message: JobMessage) -> None:
    """Put a message into the work queue, as the console does."""
    await ledger.publisher.publish(Outgoing(DEFAULT, WORK, message.encode(), JOB_TYPE, str(message.id)))


async def test_a_parked_message_that_is_moved_to_its_work_queue_begins_the_next_run(
    ledger: Ledger, vhost_url: str
) -> None:
    work = Worked()
    async with ledger.recording(), working(vhost_url, work):
        message = await parked_message(ledger)
        # Twice, as after a crash in the midst of it.
        for _ in range(2):
            await move(ledger, message)
        redriven = await ledger.job_in(message.id, JobState.ACCEPTED)
        await ledger.all_recorded()

    assert (redriven.run, redriven.attempt, redriven.reason) == (2, 0, None)
    assert ledger.job(message.id) == redriven
    assert await message_count(ledger.channel, WORK) == 0
    (entry,) = ledger.store.read(
        audit.list_audit, target=audit.job_target(message.id), limit=10, after=None, project=None
    ).records
    assert (entry.action, entry.by, entry.details["parked_run"]) == ("job_redriven", PARKED_QUEUE, 1)
    # The ledger publishes the next run; the parked one was not repeated.
    assert message.id not in work.job_ids


async def test_a_parked_message_of_a_stranger_or_of_an_earlier_run_begins_nothing(
    ledger: Ledger, vhost_url: str
) -> None:
    async with ledger.recording(), working(vhost_url, Worked()):
        forged, old = await parked_message(ledger), await parked_message(ledger)
        ledger.store.write(parking.discard, old.id, now=STARTED_AT, project=None)
        await move(ledger, forged.model_copy(update={"token": None}))
        await move(ledger, old)
        await ledger.have_put_aside(1, reason="token")
        await ledger.all_recorded()

    assert (ledger.job(forged.id).state, ledger.job(forged.id).run) == (JobState.PARKED, 1)
    assert (ledger.job(old.id).state, ledger.job(old.id).run) == (JobState.CANCELLED, 2)


async def test_messages_that_the_broker_gave_up_on_begin_the_next_run_when_they_are_moved_back(
    ledger: Ledger, vhost_url: str
) -> None:
    jobs = [ledger.submit() for _ in range(3)]
    bundle = bundled(job.encode() for job in jobs[1:])
    await ledger.publisher.publish(Outgoing(DEFAULT, WORK, jobs[0].encode(), JOB_TYPE))
    await ledger.publisher.publish(Outgoing(DEFAULT, bundle_queue("check"), bundle, JOBS_TYPE))
    for name in (WORK, bundle_queue("check")):
        queue = await ledger.channel.get_queue(name, ensure=False)
        while (message := await queue.get(fail=False)) is not None:
            await message.reject(requeue=True)
    work = Worked()
    async with ledger.recording():
        for job in jobs:
            await ledger.job_in(job.id, JobState.PARKED)
        async with working(vhost_url, work):
            for _ in range(2):
                parked = await get_message(ledger.channel, PARKED_QUEUE)
                queue_name = bundle_queue("check") if parked.type == JOBS_TYPE else WORK
                back = aio_pika.Message(parked.body, headers=parked.headers, type=parked.type)
                await ledger.channel.default_exchange.publish(back, queue_name)
            redriven = [await ledger.job_in(job.id, JobState.ACCEPTED) for job in jobs]

    assert [job.run for job in redriven] == [2] * 3 and work.job_ids == []


async def test_a_parked_message_whose_arguments_are_sealed_is_moved_like_any_other(
    ledger: Ledger, vhost_url: str
) -> None:
    async with ledger.recording(), working(vhost_url, Worked()):
        message = await parked_message(ledger)
        masked = {"url": "https://***7d1f0e@example.com/"}
        # This worker has no key; the store has the arguments.
        await move(ledger, message.model_copy(update={"args": masked, "sealed_args": "AAAA"}))
        redriven = await ledger.job_in(message.id, JobState.ACCEPTED)

    assert (redriven.run, dict(redriven.args)) == (2, dict(message.args))


async def test_a_store_that_lacks_a_job_takes_none_with_masked_arguments(
    ledger: Ledger, vhost_url: str
) -> None:
    # As after an older backup was restored.
    job = make_message(args={"url": "https://user:password1@a.example/"})
    sealed = veiled(job.model_copy(update={"token": TOKENS.of(job.id, 1)}), KEYS)
    async with ledger.recording():
        await ledger.settle(sealed, GONE)
        await ledger.all_recorded()

    assert await message_count(ledger.channel, PARKED_QUEUE) == 1
    with pytest.raises(JobNotFound):
        ledger.job(job.id)
