"""What the database's errors become: ours, with a sentence that says what is the matter.

The sentence names no host, user or row, so it may be shown to a caller; what the driver said is only logged.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from shared.errors import StoreRefused, StoreUnavailable

NO_TABLE: Final = "A table or column is missing: run `python -m producer migrate` of this version."
READ_ONLY: Final = "PostgreSQL is read-only, as a standby is: nothing can be stored until it takes writes."
READ_ONLY_FILE: Final = "The SQLite file, or its folder, is read-only: nothing can be stored."
NO_ANSWER: Final = "The store did not answer."
POOLER: Final = (
    "PostgreSQL does not have the settings that this process asked for: a connection pooler (PgBouncer?) is"
    " between them. Name PostgreSQL itself in RETRIEVER_DATABASE_URL: docs/operations.md#connection-poolers."
)

_FULL = "PostgreSQL has no connection left for this process: raise max_connections, or run fewer processes."
_NO_DISK = "The disk of the store is full."
BUSY_HERE: Final = "Another change of this process took too long: the SQLite file takes one at a time."
_LOCKED = "Another process held a lock of the store for too long."
_LOGIN = "PostgreSQL refused the user or the password of RETRIEVER_DATABASE_URL."
_NO_DATABASE = "PostgreSQL has no database of the name in RETRIEVER_DATABASE_URL."
_NOT_UP = "PostgreSQL is starting or stopping."
_REFUSED = "Nothing listens at the host and port of RETRIEVER_DATABASE_URL."
_STRANGER = "What answers at the host and port of RETRIEVER_DATABASE_URL is no PostgreSQL."
_NO_HOST = "The host of RETRIEVER_DATABASE_URL has no address."
# libpq does not say which of the two it is.
_DISTRUSTED = (
    "PostgreSQL's certificate is not trusted: sslrootcert of RETRIEVER_DATABASE_URL does not name its"
    " authority, or a certificate has expired."
)
_OTHER_HOST = "PostgreSQL's certificate is for another host than RETRIEVER_DATABASE_URL names."
_NO_ROOT = "The file that sslrootcert of RETRIEVER_DATABASE_URL names, or libpq's own, cannot be used."
_NO_PAIR = "The files that sslcert and sslkey of RETRIEVER_DATABASE_URL name, or libpq's own, cannot be used."
_OUR_CERTIFICATE = (
    "PostgreSQL demands a client certificate, or does not trust ours: sslcert and sslkey of"
    " RETRIEVER_DATABASE_URL name it."
)
_NOT_WITHOUT_TLS = "PostgreSQL's pg_hba.conf has no entry for this user, database and address without TLS."

# SQLSTATE, or its class of two characters: postgresql.org/docs/current/errcodes-appendix.html.
_BY_STATE: Final[Mapping[str, str]] = {
    "25006": READ_ONLY,
    "42P01": NO_TABLE,
    "42703": NO_TABLE,
    "42501": "PostgreSQL's user lacks a right that this needs: let it own the database's tables.",
    "28": _LOGIN,
    "3D000": _NO_DATABASE,
    "53100": _NO_DISK,
    "53200": "PostgreSQL is out of memory.",
    "53300": _FULL,
    "53": "PostgreSQL is out of a resource.",
    "55P03": _LOCKED,
    "57014": "The store took longer for a statement than it may.",
    "57": _NOT_UP,
    "57P04": _NO_DATABASE,
    "40": "Somebody else changed the same rows.",
}
# libpq gives no SQLSTATE for a connection that fails. A server may speak another language; its own words are
# logged in any case.
_BY_WORDS: Final[Mapping[str, str]] = {
    "certificate verify failed": _DISTRUSTED,
    "does not match host name": _OTHER_HOST,
    "root certificate file": _NO_ROOT,
    "private key file": _NO_PAIR,
    "certificate file": _NO_PAIR,
    "alert certificate required": _OUR_CERTIFICATE,
    "alert unknown ca": _OUR_CERTIFICATE,
    "requires a valid client certificate": _OUR_CERTIFICATE,
    # With and without TLS: both are refused.
    ", SSL encryption": _LOGIN,
    ", no encryption": _NOT_WITHOUT_TLS,
    "sslmode": "sslmode of RETRIEVER_DATABASE_URL is none that there is, or does not go with sslrootcert.",
    "unsupported startup parameter": POOLER,
    "too many clients": _FULL,
    "too many connections": _FULL,
    "connection slots": _FULL,
    "no more connections allowed": _FULL,
    "password authentication failed": _LOGIN,
    "no password supplied": _LOGIN,
    "pg_hba.conf": _LOGIN,
    "authentication failed": _LOGIN,
    'role "': _LOGIN,
    '" does not exist': _NO_DATABASE,
    "session is read-only": READ_ONLY,
    "server is in hot standby mode": READ_ONLY,
    "the database system is": _NOT_UP,
    "Connection refused": _REFUSED,
    "could not translate host name": _NO_HOST,
    "failed to resolve host": _NO_HOST,
    "does not support SSL": "PostgreSQL offers no TLS, and sslmode of RETRIEVER_DATABASE_URL requires it.",
    "received invalid response": _STRANGER,
    "expected authentication request": _STRANGER,
}
# Extended codes begin with the name of their own: sqlite.org/rescode.html.
_BY_SQLITE_CODE: Final[Mapping[str, str]] = {
    "SQLITE_READONLY": READ_ONLY_FILE,
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_FULL": _NO_DISK,
    "SQLITE_IOERR": "The disk of the SQLite file failed, or is full.",
    "SQLITE_CANTOPEN": "The SQLite file cannot be opened: look at its path and its rights.",
    "SQLITE_CORRUPT": "The SQLite file is damaged: restore a backup.",
    "SQLITE_NOTADB": "The file of RETRIEVER_DATABASE_URL is no SQLite database.",
}


@contextmanager
def store_failures() -> Iterator[None]:
    """Turn what the database raises within the block into our errors; the transaction was rolled back.

    Raises:
        StoreRefused: a value does not fit its column, or breaks a constraint.
        StoreUnavailable: anything else; it may pass.
    """
    try:
        yield
    except (DataError, IntegrityError, OverflowError, psycopg.DataError, psycopg.IntegrityError) as error:
        raise StoreRefused(_describe(error)) from error
    except DBAPIError as error:
        raise _unavailable(error) from error
    except StatementError as error:
        # SQLAlchemy could not even bind the parameters.
        raise StoreRefused(_describe(error)) from error
    except (SQLAlchemyError, psycopg.Error, sqlite3.Error) as error:
        raise _unavailable(error) from error


def is_read_only(error: BaseException | None) -> bool:
    """Return whether a connection of this process takes no writes: another one may."""
    return reason_of(error) in {READ_ONLY, READ_ONLY_FILE}


def reason_of(error: BaseException | None) -> str:
    """Return in a sentence what a driver's or SQLAlchemy's error means for the store as a whole."""
    match error:
        case psycopg.Error(sqlstate=str(state)) if known := _BY_STATE.get(state, _BY_STATE.get(state[:2])):
            return known
        case psycopg.Error():
            words = str(error)
            return next((said for word, said in _BY_WORDS.items() if word in words), NO_ANSWER)
        case sqlite3.Error():
            code = getattr(error, "sqlite_errorname", "")
            if str(error).startswith(("no such table", "no such column")):
                return NO_TABLE
            return next((said for name, said in _BY_SQLITE_CODE.items() if code.startswith(name)), NO_ANSWER)
        case sa.exc.TimeoutError():
            return "All connections of this process to the store are in use."
        case _:
            return NO_ANSWER


def _unavailable(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(reason_of(_cause(error)), said=_describe(error))


def _describe(error: Exception) -> str:
    cause = _cause(error)
    lines = str(cause).splitlines() or [""]
    # Only the driver's first line: the rest holds the statement, its parameters and row contents. An attempt
    # to connect has none, and with several hosts each has a line.
    is_connecting = isinstance(cause, psycopg.OperationalError) and cause.sqlstate is None
    return f"{type(cause).__name__}: {' '.join(lines) if is_connecting else lines[0]}"


def _cause(error: Exception) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
