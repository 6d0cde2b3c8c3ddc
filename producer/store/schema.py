"""The tables. `migrations/` builds them; a test holds the two together.

Every change of a job's state writes a new entry into every index of `jobs` on PostgreSQL, so there
are only those that a query cannot do without:

- `(state, id)`: the relay's outbox (the accepted, oldest first), lists by state, counts by state.
  A partial index of the accepted alone would give the relay nothing more and cost every insert.
- `(kind, id)` and `(host, id)`: lists by a kind or host that is rare among millions of jobs.
- `(kind, host, id)` of the parked alone: their groups, and the operations on them.
- `(batch_id, id)` and `(batch_id, state, id)`: a batch's exports, and its counts read from the
  index alone. Both hold only jobs of batches; a single job pays nothing for them.

Leasing a job changes no indexed column, so PostgreSQL writes no index where the row's page has room (HOT).
"""

import sqlalchemy as sa

from producer.parking import OperationState
from producer.store.column_types import Moment, PlainText
from shared.states import JobState

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("kind", PlainText(), nullable=False),
    sa.Column("total", sa.BigInteger(), nullable=False),
    sa.Column("labels", sa.JSON(), nullable=False),
    sa.Column("created_at", Moment(), nullable=False),
    # Its retention is over: nobody sees it any more, and its jobs are being deleted.
    sa.Column("expired_at", Moment(), nullable=True),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("kind", PlainText(), nullable=False),
    sa.Column("lane", PlainText(), nullable=False),
    sa.Column("args", sa.JSON(), nullable=False),
    sa.Column("retry", sa.JSON(), nullable=False),
    sa.Column("labels", sa.JSON(), nullable=False),
    sa.Column("host", PlainText(), nullable=False),
    sa.Column("batch_id", sa.Uuid(), sa.ForeignKey("batches.id"), nullable=True),
    sa.Column("state", PlainText(), nullable=False),
    # `shared.states.position`: a job only ever moves to a greater one.
    sa.Column("position", sa.BigInteger(), nullable=False),
    sa.Column("run", sa.Integer(), nullable=False),
    sa.Column("attempt", sa.Integer(), nullable=False),
    sa.Column("reason", PlainText(), nullable=True),
    sa.Column("explanation", PlainText(), nullable=True),
    # `json`, not `jsonb`: jsonb refuses \u0000 and lone surrogates, which JSON from outside may hold.
    sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("due_at", Moment(), nullable=True),
    sa.Column("claimed_until", Moment(), nullable=True),
    sa.Column("created_at", Moment(), nullable=False),
    sa.Column("finished_at", Moment(), nullable=True),
    sa.Column("updated_at", Moment(), nullable=False),
)

_OF_A_BATCH = jobs.c.batch_id.is_not(None)

sa.Index("ix_jobs_state_id", jobs.c.state, jobs.c.id)
sa.Index("ix_jobs_kind_id", jobs.c.kind, jobs.c.id)
sa.Index("ix_jobs_host_id", jobs.c.host, jobs.c.id)
sa.Index(
    "ix_jobs_batch_id_id",
    jobs.c.batch_id,
    jobs.c.id,
    sqlite_where=_OF_A_BATCH,
    postgresql_where=_OF_A_BATCH,
)
sa.Index(
    "ix_jobs_batch_id_state_id",
    jobs.c.batch_id,
    jobs.c.state,
    jobs.c.id,
    sqlite_where=_OF_A_BATCH,
    postgresql_where=_OF_A_BATCH,
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("job_id", sa.Uuid(), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("run", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("started_at", Moment(), nullable=False),
    sa.Column("ended_at", Moment(), nullable=True),
    sa.Column("outcome", PlainText(), nullable=True),
    sa.Column("reason", PlainText(), nullable=True),
    sa.Column("explanation", PlainText(), nullable=True),
    sa.Column("wait_seconds", sa.Double(), nullable=True),
    sa.Column("worker", PlainText(), nullable=False),
)

# A redriven job's old message still has to leave `jobs.parked`; `run` is the run that was parked.
redrives = sa.Table(
    "redrives",
    metadata,
    sa.Column("job_id", sa.Uuid(), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("run", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("requested_at", Moment(), nullable=False),
    sa.Column("swept_at", Moment(), nullable=True),
)

_UNSWEPT = redrives.c.swept_at.is_(None)

sa.Index(
    "ix_redrives_unswept",
    redrives.c.requested_at,
    redrives.c.job_id,
    sqlite_where=_UNSWEPT,
    postgresql_where=_UNSWEPT,
)

operations = sa.Table(
    "operations",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("action", PlainText(), nullable=False),
    sa.Column("filter", sa.JSON(), nullable=False),
    sa.Column("rate_per_second", sa.Integer(), nullable=False),
    sa.Column("by", PlainText(), nullable=False),
    sa.Column("state", PlainText(), nullable=False),
    sa.Column("total", sa.BigInteger(), nullable=False),
    sa.Column("done", sa.BigInteger(), nullable=False),
    sa.Column("skipped", sa.BigInteger(), nullable=False),
    # The next page may be made from then on: this is how all ledgers together keep the rate.
    sa.Column("next_at", Moment(), nullable=False),
    sa.Column("created_at", Moment(), nullable=False),
    sa.Column("finished_at", Moment(), nullable=True),
)

# Written into the statement and not bound: a prepared plan must know which state it is to trust the index.
IS_ACCEPTED = jobs.c.state == sa.literal_column(f"'{JobState.ACCEPTED.value}'")
IS_PARKED = jobs.c.state == sa.literal_column(f"'{JobState.PARKED.value}'")
IS_RUNNING_OPERATION = operations.c.state == sa.literal_column(f"'{OperationState.RUNNING.value}'")

sa.Index(
    "ix_operations_running",
    operations.c.next_at,
    sqlite_where=IS_RUNNING_OPERATION,
    postgresql_where=IS_RUNNING_OPERATION,
)

# The jobs that an operation still has to deal with, chosen when it began; `run` is the run that was parked.
operation_jobs = sa.Table(
    "operation_jobs",
    metadata,
    sa.Column(
        "operation_id", sa.Uuid(), sa.ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("job_id", sa.Uuid(), primary_key=True),
    sa.Column("run", sa.Integer(), nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("at", Moment(), nullable=False),
    sa.Column("by", PlainText(), nullable=False),
    sa.Column("action", PlainText(), nullable=False),
    sa.Column("target", PlainText(), nullable=False),
    sa.Column("details", sa.JSON(), nullable=False),
)

sa.Index("ix_audit_target_id", audit.c.target, audit.c.id)

# What only one ledger may do at a time, such as walking the parking queue.
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", PlainText(), primary_key=True),
    sa.Column("holder", PlainText(), nullable=False),
    sa.Column("held_until", Moment(), nullable=False),
)


sa.Index(
    "ix_jobs_parked",
    jobs.c.kind,
    jobs.c.host,
    jobs.c.id,
    sqlite_where=IS_PARKED,
    postgresql_where=IS_PARKED,
)
