"""What SQL the aggregates share, and all that differs between SQLite and PostgreSQL.

Column types, values as the drivers take them, row sets from JSON, INSERT for rows that may be there, leases.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from producer.stored_json import StoredObject
from shared.retry import RetryPolicy

POSTGRESQL: Final = "postgresql"
SQLITE: Final = "sqlite"

Columns = Mapping[str, sa.Column[Any]]
Insert = postgresql.Insert | sqlite.Insert
# The columns of the row that could not be inserted.
Excluded = sa.sql.base.ReadOnlyColumnCollection[str, Any]

# The parameter with the rows of `json_rowset`.
_ROWS = "given_rows"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Made once: `json.dumps` with options makes one a call, and a batch has three documents a job.
_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))


class Moment(TypeDecorator[datetime]):
    """An aware UTC time: `timestamptz` on PostgreSQL, integer microseconds since 1970 on SQLite.

    SQLite has no type for time; integers compare and sort right, and take a third of ISO text.
    A time without a zone is taken as UTC, because one careless report must not stop the recorder.
    """

    impl = sa.TIMESTAMP(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column type of the dialect."""
        return dialect.type_descriptor(sa.BigInteger() if dialect.name == "sqlite" else self.impl_instance)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Return what the driver is given."""
        if value is None:
            return None
        utc = _as_utc(value)
        return (utc - _EPOCH) // _MICROSECOND if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the stored time, aware, in UTC."""
        if value is None:
            return None
        stored: datetime = _EPOCH + value * _MICROSECOND if dialect.name == "sqlite" else value
        return stored.astimezone(UTC)


class PlainText(TypeDecorator[str]):
    """Text that both databases can hold: NUL and lone surrogates become U+FFFD.

    PostgreSQL refuses NUL and no UTF-8 database holds a lone surrogate; an explanation quotes the
    outside world, and what it quotes must not keep an outcome from being recorded.
    """

    impl = sa.Text()
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text without what cannot be stored."""
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return "".join(
            _REPLACEMENT if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in value
        )


class Choice(TypeDecorator[Any]):
    """One member of an enumeration, as its text. A value that the enumeration does not have is an error."""

    impl = sa.Text()
    cache_ok = True

    def __init__(self, choices: type[StrEnum]) -> None:
        super().__init__()
        self.choices = choices

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the member's text."""
        return None if value is None else str(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Return a look-up: calling the class costs as much as all the rest of a row."""
        members: dict[str | None, StrEnum | None] = {choice.value: choice for choice in self.choices}
        return {**members, None: None}.__getitem__


class RetryDocument(TypeDecorator[RetryPolicy]):
    """A retry policy, written as its document and read as a policy."""

    impl = sa.JSON()
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> RetryPolicy | None:
        """Return the policy."""
        return None if value is None else RetryPolicy.model_validate(value)


class StoredJson(TypeDecorator[StoredObject]):
    """A JSON object that is selected as text, and not read before somebody asks for a field of it."""

    impl = sa.Text()
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> StoredObject | None:
        """Return the object."""
        return None if value is None else StoredObject(value)


def stored(column: sa.Column[Any]) -> sa.ColumnElement[StoredObject]:
    """Return a column of JSON objects as it is selected to be passed on."""
    return sa.type_coerce(sa.cast(column, sa.Text()), StoredJson()).label(column.name)


_MOMENT, _PLAIN_TEXT = Moment(), PlainText()


def bound_value(value: object, dialect: Dialect) -> Any:
    """Return what the driver is given for a value, where SQLAlchemy does not look at it."""
    match value:
        case None | int() | float():
            return value
        case str():
            return _PLAIN_TEXT.process_bind_param(value, dialect)
        case datetime():
            return _MOMENT.process_bind_param(value, dialect)
        case UUID():
            return value.hex
        case dict() | list():
            return encode_document(value)
        case _:
            return value


def encode_document(document: Any) -> str:
    r"""Return a JSON document as ASCII text, so that `\u0000` and lone surrogates are kept as escapes.

    NaN and infinities become null: they are not JSON (RFC 8259 section 6) and PostgreSQL refuses them.
    """
    try:
        # Ten times as fast, and the same wherever all is ASCII.
        if (text := orjson.dumps(document)).isascii():
            return text.decode()
    except TypeError:
        # It takes no lone surrogate and no integer of more than 64 bits.
        pass
    try:
        return _ENCODER.encode(document)
    except ValueError:
        return _ENCODER.encode(_finite(document))


def json_rowset(dialect: str, table: sa.Table, names: Sequence[str]) -> sa.Subquery:
    """Return rows that a statement selects from, in their order; `rows_parameter` binds them.

    All are one parameter, a JSON document: a statement a row is bound, sent, planned and answered by itself,
    which costs more than what it does. Keep the statement for the next rows: SQLAlchemy takes five times as
    long to build it as to execute it.

    Args:
        names: The columns of the table that values of the rows are meant for.
    """
    document = sa.bindparam(_ROWS, type_=sa.Text())
    select = _on_postgresql if dialect == POSTGRESQL else _on_sqlite
    return select(document, {name: table.c[name] for name in names}).subquery("given")


def rows_parameter(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the parameter of a statement that selects from `json_rowset`: the rows, which have its names."""
    bound = [{name: bound_value(value, connection.dialect) for name, value in row.items()} for row in rows]
    return {_ROWS: orjson.dumps(bound).decode()}


def is_one_of(
    connection: sa.Connection, column: sa.ColumnElement[UUID], ids: Collection[UUID]
) -> sa.ColumnElement[bool]:
    """Return whether a column's id is one of these.

    On PostgreSQL they are one parameter, so the statement is the same however many ids there are, and is
    parsed and planned once.
    """
    if connection.dialect.name == POSTGRESQL:
        # As the text of an array: the driver takes five times as long to write it, an item at a time.
        text = f"{{{','.join([each.hex for each in ids])}}}"
        return column == sa.any_(sa.cast(sa.literal(text), postgresql.ARRAY(sa.Uuid())))
    return column.in_(ids)


def count_under_lock(
    connection: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool] | None = None
) -> int:
    """Count rows of a table, so that nobody else who asks adds one until the transaction ends."""
    if connection.dialect.name == POSTGRESQL:
        # SQLite has one writer at a time.
        name = sa.literal(f"retriever.{table.name}")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(name))))
    query = sa.select(sa.func.count()).select_from(table)
    return connection.scalar(query if where is None else query.where(where)) or 0


def insert_absent(connection: sa.Connection, table: sa.Table) -> Insert:
    """Return an INSERT that leaves a row that is there as it is."""
    return _insert(connection.dialect.name, table).on_conflict_do_nothing()


def upsert(
    dialect: str,
    table: sa.Table,
    *,
    where: Callable[[Excluded], sa.ColumnElement[bool]] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Insert:
    """Return an INSERT that replaces all columns of a row that has the same primary key.

    Args:
        where: Only then, given the columns of the new row.
        values: Instead of all columns, what a row that is there becomes.
    """
    insert = _insert(dialect, table)
    replaced = {column.name: insert.excluded[column.name] for column in table.c if not column.primary_key}
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_=values or replaced,
        where=where(insert.excluded) if where else None,
    )


def microseconds(dialect: str, moment: sa.Column[datetime]) -> sa.ColumnElement[int]:
    """Return a stored time in microseconds since 1970."""
    if dialect == SQLITE:
        return sa.type_coerce(moment, sa.BigInteger())
    return sa.cast(sa.extract("epoch", moment) * 1_000_000, sa.BigInteger())


def is_free(
    until: sa.ColumnElement[datetime | None], *, seconds: float, now: datetime
) -> sa.ColumnElement[bool]:
    """Return whether nobody holds a lease: there is none, it is over, or the clock was set back since.

    A lease that ends later than any taken now comes from a clock that has been set back since, perhaps by
    an hour, and its holder may be long dead. Twice the duration, not once: the clocks of two machines
    differ, and one that is a little behind must not rob the other.

    Args:
        until: When the lease ends.
        seconds: What such a lease lasts.
    """
    latest = now + 2 * timedelta(seconds=seconds)
    return sa.or_(until.is_(None), until < now, until > latest)


def read_in_order(connection: sa.Connection) -> None:
    """Let PostgreSQL find rows by their indexes alone, the oldest by the one in order, in this transaction.

    Left to itself, it trusts a count from before the last large batch. Then it reads and sorts all rows for
    each page, which takes longer than everything else a relay does; and without bitmaps it holds every row of
    the table against the thousand ids of a page, which takes seconds.
    """
    if connection.dialect.name == POSTGRESQL:
        off = ("enable_sort", "enable_bitmapscan", "enable_seqscan")
        connection.exec_driver_sql("; ".join(f"SET LOCAL {name} = off" for name in off))


def _insert(dialect: str, table: sa.Table) -> Insert:
    return (postgresql.insert if dialect == POSTGRESQL else sqlite.insert)(table)


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


def _finite(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value


def _as_utc(value: datetime) -> datetime:
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        # Within a day of year 1 or 9999 the zone's offset leads out of the calendar.
        return value.replace(tzinfo=UTC)
