"""Make the tables of fetched bodies and of what targets call their versions.

Types are written out: a migration must not change when `schema.py` does.
"""

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
    op.create_table(
        "bodies",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("charset", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_bodies"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_bodies_job_id", ondelete="CASCADE"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # It is compressed already, and only what is stored plain can be read in pieces.
        op.execute("ALTER TABLE bodies ALTER COLUMN content SET STORAGE EXTERNAL")
    op.create_table(
        "validators",
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("last_modified", sa.Text(), nullable=True),
        sa.Column("fetched_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_validators"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_validators_job_id", ondelete="CASCADE"),
    )
    op.create_index("ix_validators_job_id", "validators", ["job_id"])


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("validators")
    op.drop_table("bodies")


def _moment() -> TypeEngine[Any]:
    return sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")
