"""Make the tables of jobs, their attempts, batches and redrives.

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

_OF_A_BATCH = sa.text("batch_id IS NOT NULL")
_UNSWEPT = sa.text("swept_at IS NULL")


def upgrade() -> None:
    """Make the change."""
    _create_batches()
    _create_jobs()
    _index_jobs()
    _create_attempts()
    _create_redrives()


def downgrade() -> None:
    """Take the change back."""
    for table in ("redrives", "attempts", "jobs", "batches"):
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
        sa.Column("created_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
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
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("explanation", sa.Text(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("due_at", _moment(), nullable=True),
        sa.Column("claimed_until", _moment(), nullable=True),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("finished_at", _moment(), nullable=True),
        sa.Column("updated_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_jobs_batch_id"),
    )


def _index_jobs() -> None:
    for column in ("state", "kind", "host"):
        op.create_index(f"ix_jobs_{column}_id", "jobs", [column, "id"])
    for columns in (["batch_id", "id"], ["batch_id", "state", "id"]):
        op.create_index(
            f"ix_jobs_{'_'.join(columns)}",
            "jobs",
            columns,
            sqlite_where=_OF_A_BATCH,
            postgresql_where=_OF_A_BATCH,
        )


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
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id", ondelete="CASCADE"),
    )


def _create_redrives() -> None:
    op.create_table(
        "redrives",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("requested_at", _moment(), nullable=False),
        sa.Column("swept_at", _moment(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "run", name="pk_redrives"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_redrives_job_id", ondelete="CASCADE"),
    )
    op.create_index(
        "ix_redrives_unswept",
        "redrives",
        ["requested_at", "job_id"],
        sqlite_where=_UNSWEPT,
        postgresql_where=_UNSWEPT,
    )
