"""Keep what the leading ledger counts for the dashboard, and what ended in each minute and hour."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    keys = ("project", "state", "kind", "lane")
    op.create_table(
        "job_counts",
        *_texts(*keys),
        sa.Column("is_held", sa.Boolean(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("oldest_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint(*keys, "is_held", name="pk_job_counts"),
    )
    keys = ("project", "kind", "reason", "host")
    op.create_table(
        "parked_counts",
        *_texts(*keys),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("first_parked_at", _moment(), nullable=False),
        sa.Column("last_parked_at", _moment(), nullable=False),
        sa.Column("newest", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint(*keys, name="pk_parked_counts"),
    )
    op.create_table(
        "delay_depths",
        sa.Column("step_seconds", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("step_seconds", name="pk_delay_depths"),
    )
    for name in ("ended_minutes", "ended_hours"):
        keys = ("project", "kind", "lane", "state")
        op.create_table(
            name,
            sa.Column("span", sa.BigInteger(), nullable=False, autoincrement=False),
            *_texts(*keys),
            sa.Column("bucket", sa.Integer(), nullable=False, autoincrement=False),
            sa.Column("jobs", sa.BigInteger(), nullable=False),
            sa.PrimaryKeyConstraint("span", *keys, "bucket", name=f"pk_{name}"),
        )
    op.create_table(
        "figures",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", _moment(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_figures"),
    )


def downgrade() -> None:
    """Take the change back."""
    for name in ("figures", "ended_hours", "ended_minutes", "delay_depths", "parked_counts", "job_counts"):
        op.drop_table(name)


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _moment() -> TypeEngine[Any]:
    return sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")
