"""What bounds need to know of batches and schedules.

A batch whose `rejected_kept` is null has kept all its rejected lines, as version 0.1.0 does.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    op.add_column("batches", sa.Column("rejected_kept", sa.BigInteger(), nullable=True))
    op.add_column("schedules", sa.Column("template_bytes", sa.Integer(), nullable=True))
    op.execute("UPDATE schedules SET template_bytes = length(CAST(template AS text))")


def downgrade() -> None:
    """Take the change back."""
    op.drop_column("schedules", "template_bytes")
    op.drop_column("batches", "rejected_kept")
