"""Give jobs times: when they may run and until when.

Types are written out: a migration must not change when `schema.py` does.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "time"
down_revision = "0001"
branch_labels = None
depends_on = None

_IS_SCHEDULED = sa.text("state = 'scheduled'")
_CAN_EXPIRE = sa.text("deadline_at IS NOT NULL AND state IN ('scheduled', 'accepted', 'queued', 'delayed')")


def upgrade() -> None:
    """Make the change."""
    op.add_column("jobs", sa.Column("deadline_at", _moment(), nullable=True))
    _index("ix_jobs_scheduled_due_at", "jobs", ["due_at", "id"], where=_IS_SCHEDULED)
    _index("ix_jobs_unstarted_deadline_at", "jobs", ["deadline_at", "id"], where=_CAN_EXPIRE)


def downgrade() -> None:
    """Take the change back."""
    op.drop_index("ix_jobs_unstarted_deadline_at", "jobs")
    op.drop_index("ix_jobs_scheduled_due_at", "jobs")
    op.drop_column("jobs", "deadline_at")


def _moment() -> TypeEngine[Any]:
    return sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def _index(name: str, table: str, columns: list[str], *, where: sa.TextClause) -> None:
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
