"""Which tables code may use: its own, and newer ones that allow it.

Migrations add. A later migration removes what no code needs any more. So an upgrade begins with `migrate`,
and processes of the version before go on: docs/decisions/0018-tables-say-which-code-may-use-them.md.
"""

from collections.abc import Sequence
from enum import Enum, auto

import sqlalchemy as sa

from producer.store.schema import schema_compatibility
from shared.errors import StoreUnavailable

# Alembic's table.
_VERSION = sa.table("alembic_version", sa.column("version_num", sa.String()))


class Fit(Enum):
    """How tables relate to this code."""

    OLDER = auto()
    CURRENT = auto()
    NEWER = auto()
    """This code may use them."""
    TOO_NEW = auto()
    """They lack something that this code needs."""


def judge(version: str | None, oldest_code: str | None, *, revisions: Sequence[str]) -> Fit:
    """Return how tables relate to code.

    Args:
        version: The revision of the tables; None when there are none.
        oldest_code: The oldest code that may use them, as stored with them; None when nothing is stored.
        revisions: All that the code knows, its own last.
    """
    if version == revisions[-1]:
        return Fit.CURRENT
    if version is None or version in revisions:
        return Fit.OLDER
    return Fit.NEWER if oldest_code in revisions else Fit.TOO_NEW


def read_fit(connection: sa.Connection, revisions: Sequence[str]) -> Fit:
    """Return how the tables of a database relate to the code that knows these revisions."""
    # A direct query: Alembic's own check logs two lines at INFO, and probes come every few seconds.
    version = _only_row(connection, _VERSION, _VERSION.c.version_num)
    if version in revisions:
        return judge(version, None, revisions=revisions)
    oldest_code = _only_row(connection, schema_compatibility, schema_compatibility.c.oldest_code)
    return judge(version, oldest_code, revisions=revisions)


def note_oldest_code(connection: sa.Connection, oldest_code: str) -> None:
    """Store the oldest code that may use the tables.

    No migration makes this table, just as none makes Alembic's.
    """
    schema_compatibility.create(connection, checkfirst=True)
    if _only_row(connection, schema_compatibility, schema_compatibility.c.oldest_code) != oldest_code:
        connection.execute(schema_compatibility.delete())
        connection.execute(schema_compatibility.insert().values(oldest_code=oldest_code))


def check_usable(fit: Fit) -> None:
    """Do nothing if the code may use the tables.

    Raises:
        StoreUnavailable: it may not; says what the operator can do.
    """
    match fit:
        case Fit.CURRENT | Fit.NEWER:
            return
        case Fit.OLDER:
            raise StoreUnavailable(
                "The database has not been migrated to this version: run `python -m producer migrate`."
            )
        case Fit.TOO_NEW:
            raise StoreUnavailable(
                "The database was migrated to a version that this one is too old for: start a newer version."
            )


def _only_row(connection: sa.Connection, table: sa.TableClause, column: sa.ColumnElement[str]) -> str | None:
    if not sa.inspect(connection).has_table(table.name):
        return None
    rows = connection.scalars(sa.select(column).select_from(table)).all()
    return rows[0] if len(rows) == 1 else None
