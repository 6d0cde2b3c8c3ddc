"""json-server, a REST API with pages that nobody here wrote: for tests, from npm, by its lock file."""

import http.client
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.local.npm_packages import install
from deploy.local.packages import require
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.processes import end, wait_until_ready

START_SECONDS = 60.0
STOP_SECONDS = 5.0
# So that a test can step in half-way: page n is answered after n times so many milliseconds.
SLOWER_PAGES = (
    "module.exports = (req, res, next) => setTimeout(next, {ms} * (Number(req.query._page) || 0));\n"
)


@contextmanager
def open_json_server(
    tables: Mapping[str, Sequence[Mapping[str, Any]]], *, ms_a_page: int = 0
) -> Iterator[str]:
    """Serve tables as a REST API on loopback; yield its address. Installs Node.js and npm if it must.

    Args:
        tables: Rows by the name of their resource.
        ms_a_page: The higher the number of a page, the longer its answer takes: so much for each.

    Raises:
        ProgramMissing: npm is not there and may not be installed, or it failed.
        StartFailed: the server did not start.
    """
    script = install("json-server") / "json-server" / "lib" / "cli" / "bin.js"
    node = require("node", "nodejs")
    with tempfile.TemporaryDirectory(prefix="retriever-json-server-") as folder:
        home, port = Path(folder), free_port()
        (home / "db.json").write_text(json.dumps(tables))
        (home / "slower.js").write_text(SLOWER_PAGES.replace("{ms}", str(ms_a_page)))
        listen = ("--host", LOOPBACK, "--port", str(port))
        command = [str(node), str(script), *listen, "--quiet", "--middlewares", "slower.js", "--", "db.json"]
        url = f"http://{LOOPBACK}:{port}"
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=home,
                env={**os.environ, "NO_UPDATE_NOTIFIER": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until_ready(
                lambda: _answers(port),
                name="json-server",
                deadline_seconds=START_SECONDS,
                is_alive=lambda: process.poll() is None,
                read_log=lambda: (home / "log").read_text(errors="replace"),
            )
            yield url
        finally:
            end(process, by=signal.SIGTERM, grace_seconds=STOP_SECONDS)


def _answers(port: int) -> bool:
    asking = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        asking.request("GET", "/")
        return asking.getresponse().status == http.HTTPStatus.OK
    except (http.client.HTTPException, OSError):
        return False
    finally:
        asking.close()
