"""Count a batch's jobs in its row; add events, cancellation, idempotency keys and unique keys."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATES = ("scheduled", "accepted", "queued", "running", "delayed", "succeeded", "parked", "cancelled")
_FINAL = "succeeded + parked + cancelled"
_WITH_UNIQUE_KEY = sa.text("unique_key IS NOT NULL")


def upgrade() -> None:
    """Make the change."""
    for state in _STATES:
        op.add_column("batches", sa.Column(state, sa.BigInteger(), nullable=False, server_default="0"))
    for column in ("finished_at", "completed_at", "cancelled_at"):
        op.add_column("batches", sa.Column(column, _moment(), nullable=True))
    op.add_column("jobs", sa.Column("cancel_requested_at", _moment(), nullable=True))
    op.add_column("jobs", sa.Column("unique_key", sa.LargeBinary(), nullable=True))
    op.create_index(
        "ix_jobs_unique_key_id",
        "jobs",
        ["unique_key", "id"],
        sqlite_where=_WITH_UNIQUE_KEY,
        postgresql_where=_WITH_UNIQUE_KEY,
    )
    _create_events()
    _create_idempotency_keys()
    _count_batches()


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("idempotency_keys")
    op.drop_table("events")
    op.drop_index("ix_jobs_unique_key_id", "jobs")
    for column in ("unique_key", "cancel_requested_at"):
        op.drop_column("jobs", column)
    for column in ("cancelled_at", "completed_at", "finished_at", *reversed(_STATES)):
        op.drop_column("batches", column)


def _moment() -> TypeEngine[Any]:
    return sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("claimed_until", _moment(), nullable=True),
        sa.Column("created_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("resource_id", sa.Uuid(), nullable=False),
        sa.Column("expires_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])


def _count_batches() -> None:
    """Count what is there; batches that had ended are complete, and nobody is told again."""
    for state in _STATES:
        op.execute(
            f"UPDATE batches SET {state} = (SELECT count(*) FROM jobs"  # noqa: S608 - names of ours
            f" WHERE jobs.batch_id = batches.id AND jobs.state = '{state}')"
        )
    op.execute(
        "UPDATE batches SET finished_at = COALESCE((SELECT max(jobs.finished_at) FROM jobs"  # noqa: S608
        f" WHERE jobs.batch_id = batches.id), created_at) WHERE total = {_FINAL}"
    )
    op.execute("UPDATE batches SET completed_at = finished_at")
