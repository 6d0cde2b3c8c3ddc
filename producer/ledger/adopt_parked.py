"""`python -m producer adopt-parked`: makes the rows of parked jobs again, after a store was lost.

The recorder heard of these jobs long ago, and will not again. Their messages are still in `jobs.parked`.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from producer.adoption import adopt_jobs
from producer.ledger.parked_messages import parked_jobs
from producer.ledger.turns import Turns
from producer.store import recording, submissions
from producer.store.database import Database
from shared.broker.parked_queue import Choice, walk_parked
from shared.clock import utc_now
from shared.errors import BrokerUnavailable
from shared.messages import JobMessage, Report
from shared.outcomes import OutcomeName
from shared.settings import Settings
from shared.states import JobState

REASON_LOST: Final = "reason_lost"

_EXPLANATION = "It was parked before the store was lost, and its message does not say why."


async def adopt_parked(settings: Settings, store: Database) -> tuple[int, int]:
    """Walk `jobs.parked` once, and store every job of it that is unknown, as parked. All messages stay.

    Returns:
        How many messages there were, and how many jobs were stored.

    Raises:
        BrokerUnavailable: the broker went away, or a ledger is walking; calling it again goes on.
    """
    turns = Turns(store, "parked_walk")
    if not await turns.take():
        raise BrokerUnavailable("a ledger is walking through jobs.parked; run this again in a minute")
    adopted = 0

    async def choose(bodies: Sequence[bytes]) -> Choice:
        nonlocal adopted
        jobs = [job for body in bodies for job in parked_jobs(body) if job is not None]
        adopted += await asyncio.to_thread(partial(_adopt, store, jobs))
        return Choice(frozenset(), is_last=not await turns.take())

    try:
        walk = await walk_parked(settings.amqp_url, choose=choose)
    finally:
        await turns.give_up()
    if not walk.complete:
        raise BrokerUnavailable("a ledger has begun to walk through jobs.parked; run this again in a minute")
    return walk.seen, adopted


def _adopt(store: Database, jobs: Sequence[JobMessage]) -> int:
    new = store.write(submissions.insert_adopted, adopt_jobs(jobs, now=utc_now()))
    # Dying between the two leaves jobs that are queued: the lost-job reconciler runs them once more.
    store.write(recording.record_reports, [_report(job) for job in jobs if job.id in new], now=utc_now())
    return len(new)


def _report(job: JobMessage) -> Report:
    said = job.report
    if said is not None and said.state is JobState.PARKED and said.job_id == job.id:
        return said
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
