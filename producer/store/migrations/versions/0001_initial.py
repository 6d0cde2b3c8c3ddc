"""Make the tables of the first release, 0.1.0.

Types are written out: a migration must not change when `schema.py` does.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATES = ("scheduled", "accepted", "queued", "running", "delayed", "succeeded", "parked", "cancelled")
# Children first, as foreign keys want it.
_TABLES = (
    *("revisions", "pauses", "queues", "leases", "audit", "operation_jobs", "operations", "schedules"),
    *("redrives", "idempotency_keys", "events", "pages", "validators", "bodies", "attempts", "jobs"),
    *("rejected_lines", "batches"),
)

# Conditions of partial indexes, word for word as the queries say them, or neither database trusts the index.
_OF_A_BATCH = "batch_id IS NOT NULL"
_PARKED_SHORT = "coalesce(state, '') = 'parked' AND coalesce(length(reason), 0) <= 100"
_PARKED_LONG = "coalesce(state, '') = 'parked' AND coalesce(length(reason), 0) > 100"
_CAN_EXPIRE = (
    "deadline_at IS NOT NULL AND coalesce(state, '') IN ('scheduled', 'accepted', 'queued', 'delayed')"
)


def upgrade() -> None:
    """Make the change."""
    _create_batches()
    _create_jobs()
    _index_jobs()
    _create_attempts()
    _create_fetch_results()
    _create_pages()
    _create_outbox()
    _create_schedules()
    _create_parking()
    _create_operations()
    _create_coordination()


def downgrade() -> None:
    """Take the change back."""
    for table in _TABLES:
        op.drop_table(table)


def _moment() -> TypeEngine[Any]:
    return sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("schedule_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", _moment(), nullable=False),
        *(sa.Column(state, sa.BigInteger(), nullable=False, server_default="0") for state in _STATES),
        sa.Column("finished_at", _moment(), nullable=True),
        sa.Column("completed_at", _moment(), nullable=True),
        sa.Column("cancelled_at", _moment(), nullable=True),
        sa.Column("expired_at", _moment(), nullable=True),
        sa.Column("callback_url", sa.Text(), nullable=True),
        sa.Column("rejected", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("previous_mark_at", _moment(), nullable=True),
        sa.Column("previous_mark_ended", sa.BigInteger(), nullable=True),
        sa.Column("current_mark_at", _moment(), nullable=True),
        sa.Column("current_mark_ended", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
    )
    _index("ix_batches_finished_at_id", "batches", ["finished_at", "id"])
    op.create_table(
        "rejected_lines",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("loc", sa.Text(), nullable=False),
        sa.Column("msg", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "number", name="pk_rejected_lines"),
        _child_of("batches", "batch_id", name="fk_rejected_lines_batch_id"),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("retry", sa.JSON(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("schedule_id", sa.Uuid(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("explanation", sa.Text(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("due_at", _moment(), nullable=True),
        sa.Column("deadline_at", _moment(), nullable=True),
        sa.Column("claimed_until", _moment(), nullable=True),
        sa.Column("cancel_requested_at", _moment(), nullable=True),
        sa.Column("unique_key", sa.LargeBinary(), nullable=True),
        sa.Column("callback_url", sa.Text(), nullable=True),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("finished_at", _moment(), nullable=True),
        sa.Column("updated_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_jobs_batch_id"),
        # Room in each page for the versions of a row that follow.
        postgresql_with={"fillfactor": 50},
    )


def _index_jobs() -> None:
    _index("ix_jobs_state_id_kind", "jobs", ["state", "id", "kind"])
    _index(
        "ix_jobs_accepted_interactive",
        "jobs",
        ["id"],
        where="coalesce(state, '') = 'accepted' AND lane = 'interactive'",
    )
    _index("ix_jobs_kind_id", "jobs", ["kind", "id"])
    _index("ix_jobs_host_id", "jobs", ["host", "id"])
    _index("ix_jobs_batch_id_id", "jobs", ["batch_id", "id"], where=_OF_A_BATCH)
    _index("ix_jobs_batch_id_state_id", "jobs", ["batch_id", "state", "id"], where=_OF_A_BATCH)
    _index("ix_jobs_unique_key_id", "jobs", ["unique_key", "id"], where="unique_key IS NOT NULL")
    _index("ix_jobs_scheduled_due_at", "jobs", ["due_at", "id"], where="coalesce(state, '') = 'scheduled'")
    _index("ix_jobs_unstarted_deadline_at", "jobs", ["deadline_at", "id"], where=_CAN_EXPIRE)
    _index("ix_jobs_schedule_id_id", "jobs", ["schedule_id", "id"], where="schedule_id IS NOT NULL")
    # With all that the groups of parked jobs ask for, so that no row is read for them. PostgreSQL limits an
    # entry to 2,704 bytes and a reason may be longer, so long reasons have an index of their own.
    _index(
        "ix_jobs_parked_short",
        "jobs",
        ["kind", "host", "reason", "id", "finished_at", "batch_id", "run", "state"],
        where=_PARKED_SHORT,
    )
    _index(
        "ix_jobs_parked_short_of_batch",
        "jobs",
        ["batch_id", "kind", "host", "reason", "id", "finished_at", "run", "state"],
        where=f"{_OF_A_BATCH} AND {_PARKED_SHORT}",
    )
    _index("ix_jobs_parked_long", "jobs", ["kind", "host", "id"], where=_PARKED_LONG)


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", _moment(), nullable=False),
        sa.Column("ended_at", _moment(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("explanation", sa.Text(), nullable=True),
        sa.Column("wait_seconds", sa.Double(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "run", "number", name="pk_attempts"),
        _child_of("jobs", "job_id", name="fk_attempts_job_id"),
    )


def _create_fetch_results() -> None:
    op.create_table(
        "bodies",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("charset", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_bodies"),
        _child_of("jobs", "job_id", name="fk_bodies_job_id"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # It is compressed already, and only what is stored plain can be read in pieces.
        op.execute("ALTER TABLE bodies ALTER COLUMN content SET STORAGE EXTERNAL")
    op.create_table(
        "validators",
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("last_modified", sa.Text(), nullable=True),
        sa.Column("fetched_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_validators"),
        _child_of("jobs", "job_id", name="fk_validators_job_id"),
    )
    _index("ix_validators_job_id", "validators", ["job_id"])


def _create_pages() -> None:
    op.create_table(
        "pages",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("root_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("item_count", sa.Integer(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("stopped_by", sa.Text(), nullable=True),
        sa.Column("key_digests", sa.LargeBinary(), nullable=True),
        sa.Column("ended_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_pages"),
        _child_of("jobs", "job_id", name="fk_pages_job_id"),
    )
    _index("ix_pages_root_id_number", "pages", ["root_id", "number"])


def _create_outbox() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("claimed_until", _moment(), nullable=True),
        sa.Column("created_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("resource_id", sa.Uuid(), nullable=False),
        sa.Column("is_duplicate", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("expires_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name="pk_idempotency_keys"),
    )
    _index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])


def _create_schedules() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("cron", sa.Text(), nullable=True),
        sa.Column("timezone", sa.Text(), nullable=True),
        sa.Column("every_seconds", sa.Integer(), nullable=True),
        sa.Column("starts_at", _moment(), nullable=True),
        sa.Column("template", sa.JSON(), nullable=False),
        sa.Column("overlap", sa.Text(), nullable=False),
        sa.Column("catch_up", sa.Text(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("paused_at", _moment(), nullable=True),
        sa.Column("next_run_at", _moment(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("runs", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("last_run_at", _moment(), nullable=True),
        sa.Column("last_job_id", sa.Uuid(), nullable=True),
        sa.Column("last_batch_id", sa.Uuid(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_schedules"),
    )
    _index("ix_schedules_next_run_at", "schedules", ["next_run_at", "id"], where="next_run_at IS NOT NULL")


def _create_parking() -> None:
    op.create_table(
        "redrives",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("requested_at", _moment(), nullable=False),
        sa.Column("swept_at", _moment(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "run", name="pk_redrives"),
        _child_of("jobs", "job_id", name="fk_redrives_job_id"),
    )
    _index("ix_redrives_unswept", "redrives", ["requested_at", "job_id"], where="swept_at IS NULL")
    op.create_table(
        "audit",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", _moment(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    _index("ix_audit_target_id", "audit", ["target", "id"])


def _create_operations() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("filter", sa.JSON(), nullable=False),
        sa.Column("rate_per_second", sa.Integer(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("next_at", _moment(), nullable=False),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("finished_at", _moment(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_operations"),
    )
    _index("ix_operations_running", "operations", ["next_at"], where="state = 'running'")
    op.create_table(
        "operation_jobs",
        sa.Column("operation_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("operation_id", "job_id", name="pk_operation_jobs"),
        _child_of("operations", "operation_id", name="fk_operation_jobs_operation_id"),
    )


def _create_coordination() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("held_until", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_table(
        "queues",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("ready", sa.BigInteger(), nullable=False),
        sa.Column("consumers", sa.BigInteger(), nullable=False),
        sa.Column("observed_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_queues"),
    )
    op.create_table(
        "pauses",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("since", _moment(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("kind", "lane", name="pk_pauses"),
    )
    op.create_table(
        "revisions",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_revisions"),
    )


def _child_of(table: str, column: str, *, name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{table}.id"], name=name, ondelete="CASCADE")


def _index(name: str, table: str, columns: list[str], *, where: str | None = None) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
