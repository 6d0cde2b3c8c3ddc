"""A real PgBouncer on a free port, in transaction mode, in front of a PostgreSQL."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.packages import require
from deploy.local.ports import free_port, is_taken
from deploy.local.processes import wait_until_ready

READY_SECONDS = 20.0

_CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server_port} user=retriever
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
{settings}
"""


@contextmanager
def pgbouncer(database_url: str, *, settings: str = "") -> Iterator[str]:
    """Pool the connections to a database's server while inside; yield the database's address through it.

    Args:
        database_url: Of the server's own port; trusted there.
        settings: More lines of its section.
    """
    program = require("pgbouncer", "pgbouncer", places=("/usr/sbin",))
    port, server_port = free_port(), urlsplit(database_url).port
    with tempfile.TemporaryDirectory(prefix="retriever-pgbouncer-") as folder:
        home = Path(folder)
        # It never runs as root, and its other user must read this.
        home.chmod(0o755)
        configuration, log = home / "pgbouncer.ini", home / "log"
        configuration.write_text(_CONFIGURATION.format(port=port, server_port=server_port, settings=settings))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(program), str(configuration)],
                stdout=output,
                stderr=subprocess.STDOUT,
                user="nobody" if os.geteuid() == 0 else None,
            )
        try:
            wait_until_ready(
                lambda: is_taken(port),
                name="PgBouncer",
                deadline_seconds=READY_SECONDS,
                is_alive=lambda: process.poll() is None,
                read_log=lambda: log.read_text(errors="replace"),
            )
            yield database_url.replace(f":{server_port}/", f":{port}/")
        finally:
            process.terminate()
            process.wait(timeout=READY_SECONDS)
