"""Many rows in one statement, on both databases: they come as one parameter, a JSON document.

A statement a row is bound, sent, planned and answered for itself: that costs more than what it does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa

from producer.store.column_types import bound_value
from producer.store.engine import POSTGRESQL

Columns = Mapping[str, sa.Column[Any]]


def rows_of(connection: sa.Connection, rows: Sequence[Mapping[str, Any]], columns: Columns) -> sa.Subquery:
    """Return the rows as a table that a statement can select from, in their order.

    Args:
        columns: By the names in the rows, the columns that their values are meant for.
    """
    bound = [{name: bound_value(row[name], connection.dialect) for name in columns} for row in rows]
    document = sa.literal(orjson.dumps(bound).decode(), sa.Text)
    select = _on_postgresql if connection.dialect.name == POSTGRESQL else _on_sqlite
    return select(document, columns).subquery("given")


def _on_postgresql(document: sa.ColumnElement[str], columns: Columns) -> sa.Select[Any]:
    # A document within a row comes as text: PostgreSQL would resolve its escapes, and refuse some.
    carriers = [
        sa.column(name, sa.Text() if _is_json(column) else column.type) for name, column in columns.items()
    ]
    recordset = sa.func.json_to_recordset(sa.cast(document, sa.JSON))
    rows = recordset.table_valued(*carriers, name="row").render_derived(with_types=True)
    return sa.select(
        *(
            sa.cast(rows.c[name], sa.JSON).label(name) if _is_json(column) else rows.c[name]
            for name, column in columns.items()
        )
    )


def _on_sqlite(document: sa.ColumnElement[str], columns: Columns) -> sa.Select[Any]:
    rows = sa.func.json_each(document).table_valued("value", name="row")
    values = (
        sa.func.json_extract(rows.c.value, f"$.{name}", type_=column.type).label(name)
        for name, column in columns.items()
    )
    return sa.select(*values)


def _is_json(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.JSON)
