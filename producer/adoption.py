"""From a job that came over the broker to one that can be stored as if it had been submitted. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from producer.callers import DEFAULT_PROJECT
from producer.records import AdoptedJob, NewJob
from producer.run_tokens import RunTokens
from producer.submission import unique_key, valid_args
from shared.errors import JobInvalid
from shared.kinds.registry import BROKERED_KINDS, KINDS, Kind
from shared.messages import Job, JobMessage
from shared.retry import MAX_ATTEMPTS

MAX_ADOPTED_RUN = 10_000


def project_of(job: Job, *, tokens: RunTokens, publishers: Mapping[str, str]) -> str:
    """Return whose a job is that the store does not know.

    One that has the token of our relay says it itself. That of a third party goes where its publisher is
    mapped to; nobody can be sure of one with a token that is not ours.

    Args:
        publishers: The projects of users of the broker.
    """
    if job.token is None:
        return publishers.get(job.publisher or "", DEFAULT_PROJECT)
    is_ours = tokens.is_token_of(job.token, job.id, job.run)
    return job.project or DEFAULT_PROJECT if is_ours else DEFAULT_PROJECT


def adopt_jobs(
    jobs: Iterable[Job],
    *,
    whose: Callable[[Job], str],
    now: datetime,
    kinds: Collection[str] = BROKERED_KINDS,
) -> list[AdoptedJob]:
    """Return the jobs as they are stored, each id once, without those that may not be stored.

    Where an id comes twice, the copy that is earliest on the job's way counts: what is further on is for
    reports to say.

    Args:
        whose: Returns the project of a job.
        now: When they are taken to be created; a message does not say it.
        kinds: Those of other kinds are left out. No message makes a task: agents would pick what the store
            never had.
    """
    earliest: dict[UUID, Job] = {}
    for job in jobs:
        known = earliest.setdefault(job.id, job)
        if (job.run, job.attempt) < (known.run, known.attempt):
            earliest[job.id] = job
    return [
        _adopted(KINDS[job.kind], job, whose(job), now)
        for job in earliest.values()
        if is_adoptable(job, kinds)
    ]


def is_adoptable(job: Job, kinds: Collection[str] = BROKERED_KINDS) -> bool:
    """Return whether a job of somebody else may be stored.

    One of a kind that nobody knows could be redriven to no queue; one that comes with a high run would leave
    none for redrives. Jobs of ours that come back after a store was lost are far below. The
    arguments of a parked one that a worker has sealed must be opened first.
    """
    if isinstance(job, JobMessage) and job.sealed_args is not None:
        return False
    return job.kind in kinds and job.run <= MAX_ADOPTED_RUN and job.attempt <= MAX_ATTEMPTS


def _adopted(kind: Kind, job: Job, project: str, now: datetime) -> AdoptedJob:
    # Its batch's counts were settled when the batch was handed in, so it joins none.
    new = NewJob(
        id=job.id,
        kind=job.kind,
        lane=job.lane,
        args=job.args,
        retry=job.retry,
        host="",
        created_at=now,
        deadline_at=job.expires_at,
        ref=job.ref,
        project=project,
    )
    try:
        args = valid_args(kind, job.args)
    except JobInvalid:
        # Stored as it came, so that everybody sees what is parked and why.
        return AdoptedJob(new, run=job.run, attempt=job.attempt - 1)
    valid = replace(
        new,
        args=args.document,
        host=args.host,
        given_url=args.given_url,
        unique_key=unique_key(job.kind, args.document, project=project),
    )
    return AdoptedJob(valid, run=job.run, attempt=job.attempt - 1)
