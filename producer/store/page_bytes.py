"""Pages by bytes: how large rows are, and which of them fit into one page.

Whoever reads rows that strangers fill asks for their sizes first, and then for as many as fit, so that what
a page holds does not depend on what its rows hold.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

import sqlalchemy as sa

from producer.store.sql import POSTGRESQL

Key = TypeVar("Key")

PAGE_BYTES: Final = 4 * 1_048_576
"""How much of the columns of unknown size one page has at most, unless a single row has more."""


def row_bytes(dialect: str, *columns: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """Return how many bytes these columns of a row have together, as they are read."""
    total: sa.ColumnElement[int] = sa.literal_column("0")
    for column in columns:
        is_binary = isinstance(column.type, sa.LargeBinary)
        value = column if is_binary else sa.cast(column, sa.Text())
        # SQLite's `length` counts characters; JSON is stored as ASCII, and other texts are short.
        size = sa.func.octet_length(value) if dialect == POSTGRESQL else sa.func.length(value)
        total = total + sa.func.coalesce(size, sa.literal_column("0"))
    return sa.type_coerce(total, sa.BigInteger())


def lock_fitting(
    connection: sa.Connection,
    query: sa.Select[UUID],
    large: Sequence[sa.ColumnElement[Any]],
    *,
    most_bytes: int = PAGE_BYTES,
    key_share: bool = False,
) -> list[UUID]:
    """Lock rows that nobody has locked; return the ids of the first, until they reach a size together.

    So a page whose rows have less is the last, or has as many rows as it may.

    By a statement of its own: asked for rows and sums in one, PostgreSQL sorts, or reads another index.
    """
    rows = lock_fitting_rows(connection, query, large, most_bytes=most_bytes, key_share=key_share)
    return [row[0] for row in rows]


def lock_fitting_rows(
    connection: sa.Connection,
    query: sa.Select[Any],
    large: Sequence[sa.ColumnElement[Any]],
    *,
    most_bytes: int = PAGE_BYTES,
    key_share: bool = False,
) -> list[sa.Row[Any]]:
    """Return what `lock_fitting` does with all columns of the query, and the size of each as the last."""
    sized = query.add_columns(row_bytes(connection.dialect.name, *large))
    sized = sized.with_for_update(skip_locked=True, key_share=key_share)
    rows: list[sa.Row[Any]] = []
    total = 0
    for row in connection.execute(sized).all():
        if total >= most_bytes:
            break
        rows.append(row)
        total += row[-1]
    return rows


def fitting(sized: Iterable[tuple[Key, int]], most_bytes: int = PAGE_BYTES) -> list[Key]:
    """Return the first rows that fit together into a page; the first one whatever its size.

    Args:
        sized: The rows in the order of the page, each with its bytes.
        most_bytes: What the page has at most.
    """
    page: list[Key] = []
    total = 0
    for key, size in sized:
        total += size
        if page and total > most_bytes:
            break
        page.append(key)
    return page


def read_page(
    connection: sa.Connection,
    query: sa.Select[Any],
    key: sa.Column[UUID],
    large: Sequence[sa.ColumnElement[Any]],
    *,
    limit: int,
    most_bytes: int = PAGE_BYTES,
) -> tuple[Sequence[sa.RowMapping], UUID | None]:
    """Return the first rows of a query that fit into a page, and the key to go on behind, if there are more.

    Args:
        query: Its rows are in the order of the key.
        key: Different in every row.
        large: The columns that decide how many rows fit.
        limit: How many rows the page has at most.
        most_bytes: What these columns have together at most.
    """
    size = row_bytes(connection.dialect.name, *large)
    sized = connection.execute(query.with_only_columns(key, size).limit(limit + 1)).all()
    page = fitting(((row_key, row_size) for row_key, row_size in sized[:limit]), most_bytes)
    if not page:
        return [], None
    last = page[-1]
    here = query.where(key.between(min(page[0], last), max(page[0], last)))
    return connection.execute(here).mappings().all(), last if len(page) < len(sized) else None
