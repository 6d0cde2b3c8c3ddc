"""Give jobs times: when they may run and until when; make the table of schedules.

Types are written out: a migration must not change when `schema.py` does.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Word for word as the queries say it, or neither database trusts the index.
_IS_SCHEDULED = sa.text("coalesce(state, '') = 'scheduled'")
_CAN_EXPIRE = sa.text(
    "deadline_at IS NOT NULL AND coalesce(state, '') IN ('scheduled', 'accepted', 'queued', 'delayed')"
)

_OF_A_SCHEDULE = sa.text("schedule_id IS NOT NULL")
_HAS_A_RUN = sa.text("next_run_at IS NOT NULL")


def upgrade() -> None:
    """Make the change."""
    op.add_column("jobs", sa.Column("deadline_at", _moment(), nullable=True))
    for table in ("jobs", "batches"):
        op.add_column(table, sa.Column("schedule_id", sa.Uuid(), nullable=True))
    _index("ix_jobs_scheduled_due_at", "jobs", ["due_at", "id"], where=_IS_SCHEDULED)
    _index("ix_jobs_unstarted_deadline_at", "jobs", ["deadline_at", "id"], where=_CAN_EXPIRE)
    _index("ix_jobs_schedule_id_id", "jobs", ["schedule_id", "id"], where=_OF_A_SCHEDULE)
    _create_schedules()


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("schedules")
    op.drop_index("ix_jobs_schedule_id_id", "jobs")
    op.drop_index("ix_jobs_unstarted_deadline_at", "jobs")
    op.drop_index("ix_jobs_scheduled_due_at", "jobs")
    for table in ("jobs", "batches"):
        op.drop_column(table, "schedule_id")
    op.drop_column("jobs", "deadline_at")


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
    _index("ix_schedules_next_run_at", "schedules", ["next_run_at", "id"], where=_HAS_A_RUN)


def _moment() -> TypeEngine[Any]:
    return sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def _index(name: str, table: str, columns: list[str], *, where: sa.TextClause) -> None:
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
