"""`python -m producer republish`: after a broker was lost, every unfinished job is sent again."""

import subprocess
from collections.abc import Sequence
from datetime import timedelta

from aio_pika.abc import AbstractChannel

from producer.records import NewJob
from producer.store import audit, outbox, queries, recording, submissions
from producer.store.database import Database
from shared.clock import utc_now
from shared.kinds.registry import Lane
from shared.messages import JobMessage
from shared.states import JobState
from tests.support.amqp import get_message, message_count, open_channel
from tests.support.commands import run_producer
from tests.support.factories import NOON, make_deferral, make_job, make_report


def republish(
    database_url: str, amqp_url: str, *options: str, timeout_seconds: int = 10
) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does."""
    return run_producer(database_url, amqp_url, "republish", *options, timeout_seconds=timeout_seconds)


def said(ended: subprocess.CompletedProcess[str]) -> str:
    """Return what it said last; before that it logs each job."""
    return ended.stdout.splitlines()[-1]


def store_unfinished(store: Database) -> tuple[NewJob, NewJob, NewJob, NewJob]:
    """Store one job that is queued, one running, one that is overdue and one that is due in an hour."""
    queued, running, overdue, ahead = made = (make_job(), make_job(), make_job(), make_job())
    ended = make_job()
    store.write(submissions.insert_jobs, [*made, ended, make_job(kind="fetch", lane=Lane.BULK)])
    store.write(outbox.mark_queued, [(job.id, 1) for job in (queued, running, overdue, ahead)], now=utc_now())
    an_hour_ahead = (utc_now() - NOON + timedelta(hours=1)).total_seconds()
    reports = [
        make_report(running.id, JobState.RUNNING, attempt=3),
        make_report(overdue.id, JobState.DELAYED),
        make_deferral(ahead.id, attempt=1, seconds=an_hour_ahead),
        make_report(ended.id, JobState.SUCCEEDED),
    ]
    store.write(recording.record_reports, reports, now=utc_now())
    return queued, running, overdue, ahead


async def bodies(channel: AbstractChannel, queue: str) -> list[JobMessage]:
    """Take all messages out of a queue."""
    count = await message_count(channel, queue)
    return [JobMessage.decode((await get_message(channel, queue)).body) for _ in range(count)]


async def test_every_unfinished_job_is_sent_again_at_once(
    store: Database, database_url: str, vhost_url: str
) -> None:
    queued, running, overdue, ahead = store_unfinished(store)

    ended = republish(database_url, vhost_url)

    assert (ended.returncode, said(ended)) == (0, "republished: 1 queued, 2 delayed, 1 running")
    async with open_channel(vhost_url) as channel:
        now = await bodies(channel, "jobs.check.interactive")
        later = await bodies(channel, "jobs.delay.03600s")
    asked = {job.id: job.attempt for job in now}
    assert asked == {queued.id: 1, running.id: 3, overdue.id: 2}
    assert [(job.id, job.attempt) for job in later] == [(ahead.id, 2)]
    states = [
        store.read(queries.get_job, job.id, project=None).state for job in (queued, running, overdue, ahead)
    ]
    assert states == ["queued", "running", "delayed", "delayed"]
    (entry,) = store.read(audit.list_audit, target=None, limit=5, after=None, project=None).records
    assert (entry.by, entry.action) == ("command line", "republished")
    assert entry.details["sent"] == {"queued": 1, "delayed": 2, "running": 1}


async def test_it_can_be_run_for_a_kind_and_a_lane_and_again(
    store: Database, database_url: str, vhost_url: str
) -> None:
    fetches = [make_job(kind="fetch", lane=lane) for lane in (Lane.BULK, Lane.INTERACTIVE)]
    store.write(submissions.insert_jobs, [*fetches, make_job()])
    store.write(outbox.mark_queued, [(job.id, 1) for job in fetches], now=NOON)

    ran = [republish(database_url, vhost_url, "--kind", "fetch", "--lane", "bulk") for _ in range(2)]

    assert [said(ended) for ended in ran] == ["republished: 1 queued, 0 delayed, 0 running"] * 2
    async with open_channel(vhost_url) as channel:
        counts = [await message_count(channel, f"jobs.fetch.{lane}") for lane in ("bulk", "interactive")]
    assert counts == [2, 0]


def test_a_dry_run_counts_and_needs_no_broker(store: Database, database_url: str, unused_port: int) -> None:
    store_unfinished(store)

    ended = republish(database_url, f"amqp://127.0.0.1:{unused_port}/", "--dry-run")

    assert (ended.returncode, ended.stdout) == (0, "would republish: 1 queued, 2 delayed, 1 running\n")
    assert _audited(store) == []


def test_a_broker_that_is_away_is_named_and_nothing_has_changed(
    store: Database, database_url: str, unused_port: int
) -> None:
    store_unfinished(store)

    ended = republish(database_url, f"amqp://127.0.0.1:{unused_port}/", timeout_seconds=1)

    assert ended.returncode == 2
    assert "RETRIEVER_AMQP_URL: no broker within 1 s" in ended.stderr
    assert _audited(store) == []


def _audited(store: Database) -> Sequence[object]:
    return store.read(audit.list_audit, target=None, limit=5, after=None, project=None).records
