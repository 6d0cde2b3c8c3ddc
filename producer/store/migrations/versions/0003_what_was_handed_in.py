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
    for name in ("ref", "given"):
        op.add_column("rejected_lines", sa.Column(name, sa.Text(), nullable=True))
    has_a_ref = sa.text("ref IS NOT NULL")
    op.create_index(
        "ix_jobs_ref_id", "jobs", ["ref", "id"], sqlite_where=has_a_ref, postgresql_where=has_a_ref
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_index("ix_jobs_ref_id", "jobs")
    for name in ("given", "ref"):
        op.drop_column("rejected_lines", name)
    for name in ("same_as", "given_url", "line", "ref"):
        op.drop_column("jobs", name)
