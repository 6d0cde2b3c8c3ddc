"""Make the table of the pages of paged fetches.

Types are written out: a migration must not change when `schema.py` does.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    moment = sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")
    op.create_table(
        "pages",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("root_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("item_count", sa.Integer(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("stopped_by", sa.Text(), nullable=True),
        sa.Column("key_digests", sa.LargeBinary(), nullable=True),
        sa.Column("ended_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_pages"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_pages_job_id", ondelete="CASCADE"),
    )
    op.create_index("ix_pages_root_id_number", "pages", ["root_id", "number"])


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("pages")
