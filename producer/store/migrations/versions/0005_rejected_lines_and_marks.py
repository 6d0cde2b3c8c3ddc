"""Make the table of rejected lines; give batches their number and two marks for their rate.

Types are written out: a migration must not change when `schema.py` does.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COLUMNS = ("rejected", "previous_mark_at", "previous_mark_ended", "current_mark_at", "current_mark_ended")


def upgrade() -> None:
    """Make the change."""
    op.add_column("batches", sa.Column("rejected", sa.BigInteger(), nullable=False, server_default="0"))
    for mark in ("previous_mark", "current_mark"):
        op.add_column("batches", sa.Column(f"{mark}_at", _moment(), nullable=True))
        op.add_column("batches", sa.Column(f"{mark}_ended", sa.BigInteger(), nullable=True))
    op.create_index("ix_batches_finished_at_id", "batches", ["finished_at", "id"])
    op.create_table(
        "rejected_lines",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("loc", sa.Text(), nullable=False),
        sa.Column("msg", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "number", name="pk_rejected_lines"),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name="fk_rejected_lines_batch_id", ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("rejected_lines")
    op.drop_index("ix_batches_finished_at_id", "batches")
    for column in _COLUMNS:
        op.drop_column("batches", column)


def _moment() -> TypeEngine[Any]:
    return sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")
