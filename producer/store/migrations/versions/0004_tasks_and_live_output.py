"""Add tasks, which agents pull over HTTP, and what running commands have written so far."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_IS_TASK = "coalesce(kind, '') = 'task'"
_IS_DELAYED = f"{_IS_TASK} AND coalesce(state, '') = 'delayed'"
_INDEXES = {
    "ix_jobs_pickable": (
        ["queue", "id"],
        f"{_IS_TASK} AND (coalesce(state, '') = 'queued' OR {_IS_DELAYED} AND ready_at IS NOT NULL)",
    ),
    "ix_jobs_unready_tasks": (
        ["due_at", "id"],
        f"{_IS_DELAYED} AND ready_at IS NULL",
    ),
    "ix_jobs_leased_tasks": (["leased_until", "id"], f"{_IS_TASK} AND coalesce(state, '') = 'running'"),
}


def upgrade() -> None:
    """Make the change."""
    for name in ("queue", "lease"):
        op.add_column("jobs", sa.Column(name, sa.Text(), nullable=True))
    for name in ("leased_until", "ready_at"):
        op.add_column("jobs", sa.Column(name, _moment(), nullable=True))
    for name, (columns, where) in _INDEXES.items():
        op.create_index(name, "jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
    op.create_table(
        "outputs",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("output", sa.JSON(), nullable=False),
        sa.Column("updated_at", _moment(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_outputs_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name="pk_outputs"),
    )
    op.create_table(
        "task_queues",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("asked_at", _moment(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_task_queues"),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("task_queues")
    op.drop_table("outputs")
    for name in _INDEXES:
        op.drop_index(name, "jobs")
    for name in ("ready_at", "leased_until", "lease", "queue"):
        op.drop_column("jobs", name)


def _moment() -> TypeEngine[Any]:
    return sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")
