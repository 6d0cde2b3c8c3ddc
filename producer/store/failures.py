"""What SQLAlchemy and the drivers raise, told in our own words: none of their errors leaves the store."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from shared.errors import StoreRefused, StoreUnavailable


@contextmanager
def store_failures() -> Iterator[None]:
    """Raise what the database raises within the block in our own words; the transaction was rolled back.

    Raises:
        StoreRefused: a value does not fit its column, or breaks a constraint.
        StoreUnavailable: anything else; it may pass.
    """
    try:
        yield
    except (DataError, IntegrityError, OverflowError, psycopg.DataError, psycopg.IntegrityError) as error:
        raise StoreRefused(_describe(error)) from error
    except DBAPIError as error:
        raise StoreUnavailable(_describe(error)) from error
    except StatementError as error:
        # SQLAlchemy could not even bind the parameters.
        raise StoreRefused(_describe(error)) from error
    except (SQLAlchemyError, psycopg.Error, sqlite3.Error) as error:
        raise StoreUnavailable(_describe(error)) from error


def _describe(error: Exception) -> str:
    # Only the driver's first line: the rest holds the statement, its parameters and row contents.
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).splitlines() or [""]
    return f"the database failed ({type(cause).__name__}): {lines[0]}"
