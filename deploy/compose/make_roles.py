"""Makes the roles of the database, or makes them right; the service `roles` of docker-compose.yml runs it.

    python -m deploy.compose.make_roles FOLDER

Only this needs the superuser. Tables belong to the role that migrates; API and ledger read and write
rows, and can create nothing. A database of an older version, where all was the superuser's, is handed over.
"""

import sys
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from deploy.compose.make_secrets import API_ROLE, LEDGER_ROLE, MIGRATE_ROLE

DATABASE = "retriever"
SUPERUSER = "retriever"
# What API and ledger may do, together.
SERVICE_ROLE = "retriever_service"

_OWNED = """
    SELECT relkind, relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')
      AND pg_get_userbyid(relowner) <> %s
      -- A sequence of a column goes with its table.
      AND NOT (relkind = 'S'
        AND EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype IN ('a', 'i')))
"""
_KINDS = {"r": "TABLE", "p": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE"}
_RIGHTS = """
    REVOKE ALL ON DATABASE {database} FROM PUBLIC;
    GRANT CONNECT ON DATABASE {database} TO {service}, {migrate};
    ALTER SCHEMA public OWNER TO {migrate};
    REVOKE ALL ON SCHEMA public FROM PUBLIC;
    GRANT USAGE ON SCHEMA public TO {service};
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {service};
    GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {service};
    ALTER DEFAULT PRIVILEGES FOR ROLE {migrate} IN SCHEMA public
      GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {service};
    ALTER DEFAULT PRIVILEGES FOR ROLE {migrate} IN SCHEMA public
      GRANT USAGE, SELECT ON SEQUENCES TO {service};
"""


def make_roles(connection: psycopg.Connection, passwords: dict[str, str]) -> None:
    """Make every role with what it may do, in one transaction; called again, it changes nothing.

    Args:
        connection: Of a superuser, in the database to hand over.
        passwords: By role: those of `MIGRATE_ROLE`, `API_ROLE` and `LEDGER_ROLE`.
    """
    with connection.transaction():
        _make_role(connection, SERVICE_ROLE, None)
        for role, password in passwords.items():
            _make_role(connection, role, password)
        for role in (API_ROLE, LEDGER_ROLE):
            connection.execute(_composed("GRANT {service} TO {role}", role=role))
        for kind, name in connection.execute(_OWNED, [MIGRATE_ROLE]).fetchall():
            handed_over = sql.SQL("ALTER {} {} OWNER TO {}").format(
                sql.SQL(_KINDS[kind]), sql.Identifier("public", name), sql.Identifier(MIGRATE_ROLE)
            )
            connection.execute(handed_over)
        connection.execute(_composed(_RIGHTS, database=connection.info.dbname))


def _make_role(connection: psycopg.Connection, role: str, password: str | None) -> None:
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
        connection.execute(_composed("CREATE ROLE {role}", role=role))
    # All that a role could have been given by hand is taken back.
    plain = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
    connection.execute(_composed(f"ALTER ROLE {{role}} {plain} NOLOGIN", role=role))
    if password is not None:
        # Hashed here, so that no log of the server has it.
        hashed = connection.pgconn.encrypt_password(
            password.encode(), role.encode(), b"scram-sha-256"
        ).decode()
        connection.execute(
            sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(hashed))
        )


def _composed(text: str, *, role: str = "", database: str = "") -> sql.Composed:
    names = {"service": SERVICE_ROLE, "migrate": MIGRATE_ROLE, "role": role, "database": database}
    return sql.SQL(text).format(**{key: sql.Identifier(name) for key, name in names.items() if name})


def main(folder: Path) -> None:
    """Make the roles of the compose stack, whose secrets are in a folder."""
    addresses = [
        make_url((folder / f"database-{name}/url").read_text().strip())
        for name in ("migrate", "api", "ledger")
    ]
    passwords = {str(address.username): str(address.password) for address in addresses}
    password = (folder / "database/password").read_text().strip()
    host = addresses[0].host
    with psycopg.connect(
        host=host, user=SUPERUSER, password=password, dbname=DATABASE, connect_timeout=10
    ) as connection:
        make_roles(connection, passwords)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
