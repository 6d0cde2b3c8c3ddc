"""Add what was handed in: a job's own name for its sender, its line, its URL, and the job it repeats."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    op.add_column("jobs", sa.Column("ref", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("line", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("given_url", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("same_as", sa.Uuid(), nullable=True))
    op.add_column("batches", sa.Column("repeats", sa.BigInteger(), nullable=False, server_default="0"))
    for name in ("ref", "given"):
        op.add_column("rejected_lines", sa.Column(name, sa.Text(), nullable=True))
    _index("ix_jobs_ref_id", ["ref", "id"], where="ref IS NOT NULL")
    _index(
        "ix_jobs_waiting_repeats",
        ["same_as", "id"],
        where="same_as IS NOT NULL AND same_as != id AND coalesce(state, '-') = 'scheduled'",
    )
    _index(
        "ix_jobs_ended_originals",
        ["id"],
        where="same_as = id AND coalesce(state, '') IN ('succeeded', 'parked', 'cancelled')",
    )


def downgrade() -> None:
    """Take the change back."""
    for name in ("ix_jobs_ended_originals", "ix_jobs_waiting_repeats", "ix_jobs_ref_id"):
        op.drop_index(name, "jobs")
    op.drop_column("batches", "repeats")
    for name in ("given", "ref"):
        op.drop_column("rejected_lines", name)
    for name in ("same_as", "given_url", "line", "ref"):
        op.drop_column("jobs", name)


def _index(name: str, columns: list[str], *, where: str) -> None:
    op.create_index(name, "jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
