"""What exports say of a batch before and beside its jobs: how many came to what, and when they began."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from producer.records import VerdictCounts
from producer.store.schema import attempts, jobs
from shared.kinds.check import Verdict
from shared.kinds.registry import KINDS
from shared.states import JobState

# Only their results are looked into: those of other kinds may have megabytes.
_KINDS_WITH_VERDICT = [name for name, kind in KINDS.items() if "verdict" in kind.result_model.model_fields]


def count_verdicts(connection: sa.Connection, batch_id: UUID) -> VerdictCounts:
    """Count the jobs of a batch by state and verdict."""
    judged = sa.select(jobs.c.state, _is_not_ok().label("not_ok")).where(jobs.c.batch_id == batch_id)
    each = judged.subquery()
    query = sa.select(each.c.state, each.c.not_ok, sa.func.count()).group_by(each.c.state, each.c.not_ok)
    by_state: dict[JobState, int] = {}
    failures = 0
    for state, not_ok, number in connection.execute(query):
        by_state[JobState(state)] = by_state.get(JobState(state), 0) + number
        failures += number if not_ok else 0
    return VerdictCounts(by_state, failures)


def first_starts(connection: sa.Connection, job_ids: Iterable[UUID]) -> dict[UUID, datetime]:
    """Return when the first attempt of each job's present run began."""
    query = (
        sa.select(attempts.c.job_id, sa.func.min(attempts.c.started_at).label("began_at"))
        .join(jobs, sa.and_(jobs.c.id == attempts.c.job_id, jobs.c.run == attempts.c.run))
        .where(attempts.c.job_id.in_(list(job_ids)))
        .group_by(attempts.c.job_id)
    )
    return {row.job_id: row.began_at for row in connection.execute(query)}


def _is_not_ok() -> sa.Case[int]:
    # As text: PostgreSQL's operators on JSON fail on the escaped NUL that a stranger's result may hold.
    text = sa.cast(jobs.c.result, sa.Text)
    has_verdict = sa.and_(
        jobs.c.state == JobState.SUCCEEDED.value,
        jobs.c.kind.in_(_KINDS_WITH_VERDICT),
        text.like('%"verdict":"%'),
    )
    return sa.case((sa.and_(has_verdict, text.not_like(f'%"verdict":"{Verdict.OK}"%')), 1), else_=0)
