"""What an error of the database is called, and what of it a caller sees."""

import json
import sqlite3
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from producer.api.problems import problem_response
from producer.store.failures import reason_of, store_failures
from shared.errors import StoreUnavailable

CONNECTING = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('FATAL:  password authentication failed for user "x"', "user or the password"),
        ("fe_sendauth: no password supplied", "user or the password"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "x"', "user or the password"),
        ('FATAL:  role "nobody" does not exist', "user or the password"),
        ('FATAL:  database "none" does not exist', "no database of the name"),
        ("FATAL:  sorry, too many clients already", "no connection left"),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER",
            "no connection left",
        ),
        ('FATAL:  too many connections for role "x"', "no connection left"),
        ("FATAL:  the database system is starting up", "starting or stopping"),
        ("session is read-only", "read-only"),
        ("FATAL:  unsupported startup parameter: options", "connection pooler"),
        ("Connection refused\n\tIs the server running on that host?", "Nothing listens"),
        ("server does not support SSL, but SSL was required", "TLS"),
        ("SSL error: certificate verify failed", "authority, or a certificate has expired"),
        ('server certificate for "db-1" does not match host name "db-2"', "for another host"),
        (
            'root certificate file "/root.crt" does not exist\nEither provide the file, or change sslmode',
            "sslroot",
        ),
        ('could not read root certificate file "/root.crt": no certificate or crl found', "sslrootcert"),
        ('certificate present, but not private key file "/client.key"', "sslcert and sslkey"),
        ("SSL error: tlsv13 alert certificate required", "demands a client certificate"),
        ("FATAL:  connection requires a valid client certificate", "demands a client certificate"),
        ('FATAL:  no pg_hba.conf entry for host "h", user "x", database "d", no encryption', "without TLS"),
        ('FATAL:  no pg_hba.conf entry for host "h", user "x", SSL encryption', "user or the password"),
        ('invalid sslmode value: "verify_full"', "sslmode"),
        ("received invalid response to SSL negotiation: H", "no PostgreSQL"),
        ("something that nobody has seen yet", "did not answer"),
    ],
)
def test_a_connection_that_postgresql_refuses_says_why(said: str, reason: str) -> None:
    assert reason in reason_of(psycopg.OperationalError(CONNECTING + said))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (psycopg.errors.ReadOnlySqlTransaction(), "read-only"),
        (psycopg.errors.UndefinedTable(), "missing"),
        (psycopg.errors.UndefinedColumn(), "missing"),
        (psycopg.errors.InsufficientPrivilege(), "lacks a right"),
        (psycopg.errors.DiskFull(), "disk of the store is full"),
        (psycopg.errors.TooManyConnections(), "no connection left"),
        (psycopg.errors.LockNotAvailable(), "lock"),
        (psycopg.errors.QueryCanceled(), "longer for a statement"),
        (psycopg.errors.AdminShutdown(), "starting or stopping"),
        (psycopg.errors.SerializationFailure(), "same rows"),
        (sa.exc.TimeoutError(), "in use"),
    ],
)
def test_a_statement_that_fails_says_why(error: Exception, reason: str) -> None:
    assert reason in reason_of(error)


def test_a_file_that_is_no_database_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "picture.db"
    path.write_bytes(b"GIF89a" * 1_000)
    connection = sqlite3.connect(path)

    with pytest.raises(StoreUnavailable, match="is no SQLite database"), store_failures():
        connection.execute("SELECT 1 FROM jobs")

    connection.close()


def test_a_caller_sees_the_reason_and_none_of_the_driver_s_words() -> None:
    error = psycopg.OperationalError(f'{CONNECTING}FATAL:  password authentication failed for user "x"')

    with pytest.raises(StoreUnavailable) as raised, store_failures():
        raise error
    response = problem_response(raised.value)

    problem = json.loads(bytes(response.body))
    assert problem["detail"] == "PostgreSQL refused the user or the password of RETRIEVER_DATABASE_URL."
    assert "127.0.0.1" in str(raised.value)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
