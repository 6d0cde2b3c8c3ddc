"""Add the rates of keys, and what API processes tell each other to keep to them."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    op.add_column("api_keys", sa.Column("rate_per_second", sa.Integer(), nullable=True))
    op.create_table(
        "rate_demands",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("process", sa.Uuid(), nullable=False),
        sa.Column("asked_per_second", sa.Float(), nullable=False),
        sa.Column("noted_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("caller", "process", name="pk_rate_demands"),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("rate_demands")
    op.drop_column("api_keys", "rate_per_second")


def _moment() -> TypeEngine[Any]:
    return sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")
