"""What the tables of a database are, and what older code loses when a migration changes them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

Columns = tuple[str, ...]

_POSTGRESQL_CATALOG = (
    """SELECT 'column', table_name, column_name, udt_name, is_nullable, column_default, collation_name
    FROM information_schema.columns WHERE table_schema = 'public'""",
    """SELECT 'storage', relname || '.' || attname, attstorage::text
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped""",
    "SELECT 'index', indexdef FROM pg_indexes WHERE schemaname = 'public'",
    """SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    """SELECT 'relation', relname, relkind::text, relpersistence::text, reloptions::text
    FROM pg_class WHERE relnamespace = 'public'::regnamespace""",
)

# To empty a table takes a millisecond or two, also one in which nobody has ever written.
_POSTGRESQL_WRITTEN = """SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0"""

# What a migration writes, and no code afterwards.
_KEPT_TABLES = ("alembic_version", "schema_compatibility")


@dataclass(frozen=True, slots=True)
class TableSeen:
    """A table as the database tells it; `uniques` with the primary key, `references` by (columns, table)."""

    columns: Mapping[str, Any]
    uniques: frozenset[Columns]
    checks: frozenset[str]
    references: Mapping[tuple[Columns, str], str]


def look_at_tables(connection: sa.Connection) -> dict[str, TableSeen]:
    """Return the tables of a database by name."""
    inspector = sa.inspect(connection)
    return {name: _look(inspector, name) for name in inspector.get_table_names()}


def stored_objects(connection: sa.Connection) -> set[str]:
    """Return what a database's catalog says about our tables, one line for each object.

    Unlike Alembic's comparison it sees conditions of indexes, defaults, storage and storage parameters.
    """
    if connection.dialect.name == "sqlite":
        return _sqlite_objects(connection)
    rows = [row for query in _POSTGRESQL_CATALOG for row in connection.exec_driver_sql(query)]
    return {" ".join(str(value) for value in row) for row in rows}


def empty_tables(url: str, *, like: str) -> bool:
    """Empty a PostgreSQL database, whoever uses it, and return whether it is as the other one then.

    Args:
        like: The address of a database with the same tables, in which nobody has written.
    """
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        )
        if stored_objects(connection) != _untouched(like)[0]:
            return False
        written = connection.exec_driver_sql(_POSTGRESQL_WRITTEN).scalars().all()
        if tables := sorted(set(written) - set(_KEPT_TABLES)):
            connection.exec_driver_sql(f"TRUNCATE {', '.join(tables)} CASCADE")
        return _kept_rows(connection) == _untouched(like)[1]


@cache
def _untouched(url: str) -> tuple[set[str], list[tuple[Any, ...]]]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return stored_objects(connection), _kept_rows(connection)


def _kept_rows(connection: sa.Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for name in _KEPT_TABLES for row in connection.exec_driver_sql(f"TABLE {name}")]


def losses(before: Mapping[str, TableSeen], after: Mapping[str, TableSeen]) -> list[str]:
    """Return, in words, what code written for the tables `before` misses in those `after`, or is refused."""
    missed = [f"{name}: gone" for name in before if name not in after]
    for name, table in after.items():
        if name in before:
            missed += [f"{name}{loss}" for loss in _losses(before[name], table)]
        missed += [f"{name}: holds back rows of {other}" for other in _held(before, name, table)]
    return sorted(missed)


def _sqlite_objects(connection: sa.Connection) -> set[str]:
    indexes = "SELECT 'index', name, sql FROM sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL"
    rows = [tuple(row) for row in connection.exec_driver_sql(indexes)]
    inspector = sa.inspect(connection)
    for name in inspector.get_table_names():
        # Without the first field: the number in the order, which changes nothing.
        columns = connection.exec_driver_sql(f"PRAGMA table_xinfo({name})")
        rows += [("column", name, *column[1:]) for column in columns]
        rows += [("foreign key", name, str(key)) for key in inspector.get_foreign_keys(name)]
        rows += [("unique", name, str(unique)) for unique in inspector.get_unique_constraints(name)]
        rows += [("check", name, str(check)) for check in inspector.get_check_constraints(name)]
        rows.append(("primary key", name, str(inspector.get_pk_constraint(name))))
    return {" ".join(str(value) for value in row) for row in rows}


def _look(inspector: sa.Inspector, name: str) -> TableSeen:
    uniques: list[Sequence[str | None]] = [
        constraint["column_names"] for constraint in inspector.get_unique_constraints(name)
    ]
    uniques += [index["column_names"] for index in inspector.get_indexes(name) if index["unique"]]
    uniques.append(inspector.get_pk_constraint(name)["constrained_columns"])
    return TableSeen(
        columns={column["name"]: column for column in inspector.get_columns(name)},
        uniques=frozenset(tuple(str(column) for column in columns) for columns in uniques),
        checks=frozenset(check["sqltext"] for check in inspector.get_check_constraints(name)),
        references={
            (tuple(key["constrained_columns"]), key["referred_table"]): str(key["options"].get("ondelete"))
            for key in inspector.get_foreign_keys(name)
        },
    )


def _losses(before: TableSeen, after: TableSeen) -> Iterator[str]:
    for name, column in before.columns.items():
        if name not in after.columns:
            yield f".{name}: gone"
            continue
        now = after.columns[name]
        if str(now["type"]) != str(column["type"]):
            yield f".{name}: another type"
        if _must_be_given(now) and not _must_be_given(column):
            yield f".{name}: must be given"
        elif column["nullable"] and not now["nullable"]:
            yield f".{name}: takes no null"
    for name in after.columns.keys() - before.columns.keys():
        if _must_be_given(after.columns[name]):
            yield f".{name}: must be given"
    # The gone ones too: ON CONFLICT names its columns.
    yield from (f": unique {', '.join(columns)}" for columns in before.uniques ^ after.uniques)
    yield from (f": check {check}" for check in after.checks - before.checks)
    yield from (f": reference {columns}" for columns in after.references.keys() - before.references.keys())


def _must_be_given(column: Mapping[str, Any]) -> bool:
    return not column["nullable"] and column["default"] is None


def _held(before: Mapping[str, TableSeen], name: str, table: TableSeen) -> Iterator[str]:
    """Yield the old tables of which a new one would let no row be deleted."""
    for (_, other), on_delete in table.references.items():
        if name not in before and other in before and on_delete not in {"CASCADE", "SET NULL"}:
            yield other
