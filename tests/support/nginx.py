"""A real nginx on a free port, with a configuration for tests."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.packages import require
from deploy.local.ports import free_ports

READY_SECONDS = 10

_CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log {folder}/access.log; default_type text/html; server_tokens off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  gzip on; gzip_min_length 1; gzip_types application/json; types {{ application/json json; text/html html; }}
  limit_req_zone $uri zone=slow:1m rate=1r/m;
  server {{
    listen 127.0.0.1:{port}; root {folder}/site;
    location = /hang-up {{ return 444; }}
    {returns}
    location = /limited {{ limit_req zone=slow; limit_req_status 429; try_files /page.html =404; }}
    location = /busy {{ limit_req zone=slow; try_files /page.html =404; }}
    location = /moved {{ return 301 /page.html#there; }}
    location = /get-only {{ limit_except GET {{ deny all; }} try_files /page.html =404; }}
  }}
}}
"""

_STATUSES = (200, 204, 401, 403, 404, 405, 410, 451, 500, 502, 503, 504)
PAGE = """<!doctype html><html><head><title>
  A page &amp; its title</title></head><body><!-- id="hidden" -->
<h1 id="there">Welcome</h1><a name='caf\u00e9'>x</a><script>"<p id='scripted'>"</script></body></html>
"""


@contextmanager
def nginx() -> Iterator[str]:
    """Serve until the end; yield the address, without a slash. A missing nginx is installed, or an error."""
    program = require("nginx", "nginx-light", places=("/usr/sbin",))
    folder = Path(tempfile.mkdtemp(prefix="retriever-nginx-"))
    port = free_ports(1)[0]
    (folder / "site").mkdir()
    # Its workers may run as another user.
    folder.chmod(0o755)
    (folder / "site" / "page.html").write_text(PAGE, encoding="utf-8")
    (folder / "site" / "data.json").write_text('{"status": "up", "items": [1, 2, 3], "none": null}')
    returns = " ".join(f"location = /status/{status} {{ return {status}; }}" for status in _STATUSES)
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, port=port, returns=returns))
    command = [str(program), "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_until_ready(process, port, folder / "error.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=READY_SECONDS)
        shutil.rmtree(folder)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nginx did not start: {log.read_text()[-1000:] if log.exists() else 'no log'}")
