"""What an operator runs after a loss: `republish` if the broker was lost, `adopt-parked` if the store was.

`python -m producer republish` sends every unfinished job again at once. `python -m producer adopt-parked`
makes the rows of parked jobs again: the recorder heard of them long ago, and will not again, but their
messages are still in `jobs.parked`.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final
from uuid import UUID

from producer.adoption import adopt_jobs, project_of
from producer.ledger.leader import Lease
from producer.ledger.lost_jobs import Republisher
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.parked_reconciler import PARKED_WALK, WALK_LEASE_SECONDS, parked_jobs, walk_alone
from producer.run_tokens import KEY_BYTES, RunTokens
from producer.store import recording, submissions, unfinished
from producer.store.database import Database, RetryingStore, Store
from producer.store.secret_keys import RUN_TOKENS, keep_key
from shared.broker.parked_queue import Choice
from shared.broker.publisher import Publisher
from shared.broker.topology import declare_topology
from shared.clock import utc_now
from shared.encryption import EncryptionKeys
from shared.errors import BrokerError, BrokerUnavailable, SecretUnreadable
from shared.events import EVERY
from shared.kinds.registry import BROKERED_KINDS, KINDS, Lane
from shared.messages import Job, JobMessage, Report
from shared.outcomes import OutcomeName
from shared.settings import Settings
from shared.states import UNDER_WAY, JobState
from shared.veiled_args import unveiled

COMMAND_LINE: Final = "command line"
"""The actor of these commands in the audit log."""

REASON_LOST: Final = "reason_lost"

logger = logging.getLogger(__name__)

_AGAIN = "running this again is safe"
_EXPLANATION = "It was parked before the store was lost, and its message does not say why."


async def republish_all(
    settings: Settings, database: Database, *, kind: str | None = None, lane: Lane | None = None
) -> Mapping[JobState, int]:
    """Declare the topology, and send every unfinished job of a kind and lane, or of all, again.

    Jobs that begin meanwhile are left to the relay. Reads and sends a page at a time. A second call sends all
    of them again, which costs work and harms nothing.

    Returns:
        How many were sent, by state.

    Raises:
        BrokerUnavailable: the broker did not answer, or did not take a job; what was sent stays sent.
        StoreUnavailable: the store did not answer.
    """
    async with _connected(settings) as publisher:
        sent = Counter[JobState]()
        store = Store(database)
        republisher = Republisher(
            store=RetryingStore(database),
            tokens=RunTokens(await store.write(keep_key, RUN_TOKENS, key_bytes=KEY_BYTES)),
            publisher=publisher,
            metrics=LedgerMetrics(),
            settings=settings,
            why="command",
        )
        try:
            await _send_all(store, republisher, chosen_queues(kind, lane), sent)
        except BrokerError as error:
            text = f"RETRIEVER_AMQP_URL: {error}; {sent.total()} jobs were sent, {_AGAIN}"
            raise BrokerUnavailable(text) from error
        finally:
            await store.write(
                unfinished.note_republished,
                kind or EVERY,
                lane or EVERY,
                counts={state.value: number for state, number in sent.items()},
                by=COMMAND_LINE,
                now=utc_now(),
            )
        return sent


def chosen_queues(kind: str | None, lane: Lane | None) -> list[tuple[str, Lane]]:
    """Return the kinds and lanes that are meant; None stands for all."""
    return [
        (one, each) for one in BROKERED_KINDS for each in Lane if kind in {None, one} and lane in {None, each}
    ]


async def adopt_parked(settings: Settings, database: Database) -> tuple[int, int, int]:
    """Walk `jobs.parked` once, and store every unknown job in it as parked. All messages stay.

    Returns:
        How many messages there were, how many jobs were stored, and how many arguments did not open.

    Raises:
        BrokerUnavailable: the broker went away, or a ledger is walking; calling it again goes on.
    """
    store = Store(database)
    tokens = RunTokens(await store.write(keep_key, RUN_TOKENS, key_bytes=KEY_BYTES))
    whose = partial(project_of, tokens=tokens, publishers=settings.publisher_projects)
    lease = Lease(store, PARKED_WALK, seconds=WALK_LEASE_SECONDS)
    keys = EncryptionKeys.of(settings.encryption_keys)
    adopted = closed = 0

    async def choose(bodies: Sequence[bytes]) -> Choice:
        nonlocal adopted, closed
        seen = [job for body in bodies for job in parked_jobs(body) if job is not None]
        jobs = [_opened(job, keys) for job in seen]
        closed += sum(job.sealed_args is not None for job in jobs)
        adopted += await asyncio.to_thread(_adopt, database, jobs, whose)
        return Choice(frozenset())

    walk = await walk_alone(settings.amqp_url, lease, choose=choose)
    if not walk.complete:
        raise BrokerUnavailable("a ledger has begun to walk through jobs.parked; run this again in a minute")
    return walk.seen, adopted, closed


async def _send_all(
    store: Store, republisher: Republisher, queues: list[tuple[str, Lane]], sent: Counter[JobState]
) -> None:
    began_at = utc_now()
    for state in UNDER_WAY:
        after: UUID | None = None
        while True:
            page = await store.read(unfinished.read_page, state, queues, heard_before=began_at, after=after)
            sent.update(await republisher.send(page.jobs))
            if (after := page.following) is None:
                break


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Publisher]:
    publisher = Publisher(
        settings.amqp_url,
        name="retriever republish",
        timeout_seconds=settings.publish_timeout_seconds,
        plain=settings.amqp_plain,
        prepare=lambda channel: declare_topology(channel, BROKERED_KINDS),
    )
    running = asyncio.create_task(publisher.run())
    try:
        async with asyncio.timeout(settings.publish_timeout_seconds):
            await publisher.wait_ready()
    except TimeoutError as error:
        seconds = settings.publish_timeout_seconds
        text = f"RETRIEVER_AMQP_URL: no broker within {seconds:g} s; nothing was sent, {_AGAIN}"
        raise BrokerUnavailable(text) from error
    else:
        yield publisher
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _opened(job: JobMessage, keys: EncryptionKeys) -> JobMessage:
    try:
        return unveiled(job, keys)
    except SecretUnreadable as error:
        logger.warning("arguments_do_not_open", extra={"job_id": str(job.id), "error": str(error)})
        return job


def _adopt(database: Database, jobs: Sequence[JobMessage], whose: Callable[[Job], str]) -> int:
    now = utc_now()
    adopted = adopt_jobs(jobs, whose=whose, now=now, kinds=KINDS)
    # Together: an agent must not pick a task that is parked a moment later.
    with database.writing() as connection:
        new = submissions.insert_adopted(connection, adopted)
        reports = [_report(job) for job in jobs if job.id in new]
        recording.record_reports(connection, reports, now=now)
    return len(new)


def _report(job: JobMessage) -> Report:
    reported = job.report
    if reported is not None and reported.state is JobState.PARKED and reported.job_id == job.id:
        return reported
    # The broker parked it, or the reconciler put it there again.
    return Report(
        job_id=job.id,
        kind=job.kind,
        run=job.run,
        attempt=job.attempt,
        state=JobState.PARKED,
        outcome=OutcomeName.FAILED_PERMANENT,
        reason=REASON_LOST,
        explanation=_EXPLANATION,
        worker="broker",
    )
