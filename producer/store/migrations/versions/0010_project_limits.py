"""Add the limits of projects, and the counts of what limited projects have.

No project is limited yet, so nothing that is stored is counted here: it is when the first limit is set.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_IS_UNFINISHED = "finished_at IS NULL"


def upgrade() -> None:
    """Make the change."""
    op.create_table(
        "project_limits",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project", "name", name="pk_project_limits"),
    )
    op.create_table(
        "project_usage",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("tasks", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("measured_at", _moment(), nullable=True),
        sa.Column("recount_at", _moment(), nullable=False),
        sa.Column("recounts", sa.BigInteger(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("project", name="pk_project_usage"),
    )
    op.create_index(
        "ix_batches_unfinished",
        "batches",
        ["project"],
        sqlite_where=sa.text(_IS_UNFINISHED),
        postgresql_where=sa.text(_IS_UNFINISHED),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_index("ix_batches_unfinished", "batches")
    op.drop_table("project_usage")
    op.drop_table("project_limits")


def _moment() -> TypeEngine[Any]:
    return sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")
