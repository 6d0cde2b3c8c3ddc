"""Jobs that third parties publish go to the project of the user whom the broker vouches for."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aio_pika
import pytest

from consumer.delivery_handler import _attributed
from producer.callers import DEFAULT_PROJECT
from producer.store import queries
from producer.store.database import Database
from shared.broker.outgoing import Outgoing
from shared.broker.topology import JOBS, PARKED_QUEUE, RESULTS, RETURN
from shared.errors import JobNotFound
from shared.messages import REPORT_TYPE, JobMessage, Report
from shared.outcomes import Failed, Succeeded
from shared.states import JobState
from tests.support.amqp import get_message, message_count, open_channel
from tests.support.factories import TOKENS
from tests.support.quotas import limit, usage_of
from tests.support.recording_ledger import Ledger, make_message, open_ledger

DONE = Succeeded({"verdict": "ok"})


@pytest.fixture
def user(vhost_url: str) -> str:
    """Return the user of the broker who publishes."""
    return urlsplit(vhost_url).username or ""


@pytest.fixture
async def ledger(store: Database, vhost_url: str, user: str) -> AsyncIterator[Ledger]:
    """Yield a ledger that knows the project of the user, and whose recorder does not run yet."""
    async with open_ledger(store, vhost_url, publisher_projects={user: "acme"}) as opened:
        yield opened


def project_in(ledger: Ledger, job: JobMessage) -> str:
    return ledger.job(job.id).project


async def test_a_published_job_goes_to_the_project_of_its_publisher(ledger: Ledger, user: str) -> None:
    named, nameless, lying = make_message(), make_message(), make_message()
    lying = lying.model_copy(update={"project": "acme", "publisher": user})
    forged = make_message().model_copy(update={"project": "acme", "token": "0" * 32})

    async with ledger.recording():
        await ledger.publish(named.encode(), user_id=user)
        for job in (nameless, lying, forged):
            await ledger.publish(job.encode())
        for job in (named, nameless, lying, forged):
            await ledger.job_in(job.id, JobState.QUEUED)

    assert project_in(ledger, named) == "acme"
    assert [project_in(ledger, job) for job in (nameless, lying, forged)] == [DEFAULT_PROJECT] * 3
    with pytest.raises(JobNotFound):
        ledger.store.read(queries.get_job, named.id, project=DEFAULT_PROJECT)


async def test_nobody_publishes_in_the_name_of_another(ledger: Ledger) -> None:
    with pytest.raises(aio_pika.exceptions.ChannelPreconditionFailed):
        await ledger.publish(make_message().encode(), user_id="somebody-else")


async def test_a_report_that_comes_before_its_job_says_who_published_it(ledger: Ledger, user: str) -> None:
    sent = [make_message() for _ in range(3)]
    # As the first worker notes it.
    noted = [job.model_copy(update={"publisher": user}) for job in sent]
    await ledger.settle(noted[0], DONE)
    await ledger.settle(noted[1], Failed("timeout", "No answer.", transient=True))
    await ledger.settle(noted[2], Failed("http_404", "Gone.", transient=False))

    async with ledger.recording():
        for job in sent:
            await ledger.job_in(job.id, JobState.SUCCEEDED, JobState.DELAYED, JobState.PARKED)

    assert [project_in(ledger, job) for job in sent] == ["acme"] * 3


async def test_a_job_of_ours_that_the_store_has_lost_comes_back_to_its_project(ledger: Ledger) -> None:
    lost = make_message()
    lost = lost.model_copy(update={"project": "zeta", "token": TOKENS.of(lost.id, lost.run)})

    async with ledger.recording():
        await ledger.settle(lost, DONE)
        await ledger.job_in(lost.id, JobState.SUCCEEDED)

    assert project_in(ledger, lost) == "zeta"


async def test_what_a_message_says_of_a_stored_job_s_project_changes_nothing(
    ledger: Ledger, user: str
) -> None:
    job = ledger.submit()
    claimed = job.model_copy(update={"project": "acme"})

    async with ledger.recording():
        await ledger.publish(claimed.model_copy(update={"token": None}).encode(), user_id=user)
        await ledger.settle(claimed, DONE)
        await ledger.job_in(job.id, JobState.SUCCEEDED)

    assert project_in(ledger, job) == DEFAULT_PROJECT


class _Delivered:
    """What a worker reads of a delivery to say who published it."""

    def __init__(self, exchange: str, user_id: str | None) -> None:
        self.exchange = exchange
        self.user_id = user_id


@pytest.mark.parametrize(
    ("exchange", "user_id", "token", "said", "noted"),
    [
        (JOBS, "crawler", None, None, "crawler"),
        (JOBS, None, None, None, None),
        (JOBS, None, None, "crawler", None),
        (JOBS, "crawler", None, "other", "crawler"),
        # Straight into a work queue.
        ("", None, None, "crawler", None),
        # A worker has noted it before the delay.
        (RETURN, None, None, "crawler", "crawler"),
        # The recorder does not look at it beside a token.
        (JOBS, None, "0" * 32, "crawler", "crawler"),
    ],
)
def test_a_worker_notes_whom_the_broker_vouches_for(
    exchange: str, user_id: str | None, token: str | None, said: str | None, noted: str | None
) -> None:
    job = make_message().model_copy(update={"token": token, "publisher": said})

    attributed = _attributed(job, _Delivered(exchange, user_id))  # type: ignore[arg-type]

    assert attributed.publisher == noted


async def test_what_is_published_into_a_full_project_is_put_aside_and_not_lost(
    ledger: Ledger, user: str, vhost_url: str
) -> None:
    limit(ledger.store, "acme", stored_jobs=1)
    first, second = [make_message().model_copy(update={"publisher": user}) for _ in range(2)]
    async with ledger.recording(), open_channel(vhost_url) as channel:
        await ledger.publish(first.encode(), user_id=user)
        await ledger.job_in(first.id, JobState.QUEUED)
        await ledger.publish(second.encode(), user_id=user)
        # Its worker knows of no limits, and does it.
        await ledger.settle(second, DONE)
        await ledger.have_put_aside(1, reason="quota")
        # A job of another project, and the end of one that is stored, come through.
        await ledger.settle(first, DONE)
        await ledger.job_in(first.id, JobState.SUCCEEDED)
        with pytest.raises(JobNotFound):
            ledger.job(second.id)
        assert usage_of(ledger.store, "acme").jobs == 1

        aside = await get_message(channel, PARKED_QUEUE)
        limit(ledger.store, "acme", stored_jobs=2)
        again = Outgoing(RESULTS, "check.bulk.succeeded", aside.body, REPORT_TYPE)
        await ledger.publisher.publish(again)
        done = await ledger.job_in(second.id, JobState.SUCCEEDED)

    assert (done.project, done.result) == ("acme", {"verdict": "ok"})
    assert usage_of(ledger.store, "acme").jobs == 2


async def test_that_a_job_without_a_place_runs_is_no_loss(ledger: Ledger, user: str, vhost_url: str) -> None:
    limit(ledger.store, "acme", stored_jobs=0)
    job = make_message().model_copy(update={"publisher": user})
    async with ledger.recording(), open_channel(vhost_url) as channel:
        running = Report(
            job_id=job.id, kind=job.kind, run=1, attempt=1, state=JobState.RUNNING, worker="w", job=job
        )
        await ledger.report(running.encode())
        await ledger.settle(job, Failed("http_404", "Gone.", transient=False))
        await ledger.have_put_aside(1, reason="quota")
        await ledger.all_recorded()

        # The parked copy that its worker wrote: nothing of it is there twice.
        assert await message_count(channel, PARKED_QUEUE) == 1
