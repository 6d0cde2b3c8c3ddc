"""Let the ledger release jobs by host and by batch: what hosts hold, and how those are that are tracked."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ACCEPTED = "coalesce(state, '') = 'accepted'"
_READY = f"{_ACCEPTED} AND held_for IS NULL"


def upgrade() -> None:
    """Make the change."""
    op.add_column("jobs", sa.Column("held_for", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("counted_for", sa.Text(), nullable=True))
    _index("ix_jobs_ready_interactive", "jobs", ["id"], f"{_READY} AND lane = 'interactive'")
    _index("ix_jobs_ready_bulk", "jobs", ["kind", "batch_id", "id"], f"{_READY} AND lane = 'bulk'")
    held = ["held_for", "lane", "batch_id", "id"]
    _index("ix_jobs_held", "jobs", held, f"{_ACCEPTED} AND held_for IS NOT NULL")
    op.create_table(
        "hosts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("waiting", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("owed", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_at", _moment(), nullable=True),
        sa.Column("retries", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("share", sa.Float(), nullable=False, server_default="1"),
        sa.Column("cut_at", _moment(), nullable=True),
        sa.Column("asked", sa.Float(), nullable=False, server_default="0"),
        sa.Column("complained", sa.Float(), nullable=False, server_default="0"),
        sa.Column("heard_at", _moment(), nullable=True),
        sa.Column("paused_until", _moment(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("rests", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("rests_until", _moment(), nullable=True),
        sa.Column("turn", sa.Uuid(), nullable=True),
        sa.Column("set_concurrency", sa.Integer(), nullable=True),
        sa.Column("set_rate_per_second", sa.Float(), nullable=True),
        sa.Column("concurrency", sa.Integer(), nullable=True),
        sa.Column("rate_per_second", sa.Float(), nullable=True),
        sa.Column("ready_at", _moment(), nullable=True),
        sa.Column("changed_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_hosts"),
    )
    op.create_index("ix_hosts_host", "hosts", ["host"])
    _index("ix_hosts_ready_at", "hosts", ["ready_at"], "ready_at IS NOT NULL")


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("hosts")
    for name in ("ix_jobs_held", "ix_jobs_ready_bulk", "ix_jobs_ready_interactive"):
        op.drop_index(name, "jobs")
    op.drop_column("jobs", "counted_for")
    op.drop_column("jobs", "held_for")


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _moment() -> TypeEngine[Any]:
    return sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")
