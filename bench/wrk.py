"""wrk, the HTTP load generator of Debian: one run of POSTs, and what it printed as figures."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import ControlFailed
from deploy.local.packages import require
from deploy.local.processes import run_control

_OVERTIME_SECONDS = 30.0
_RATE = re.compile(r"^Requests/sec:\s+([\d.]+)$", re.MULTILINE)
_PERCENTILE = r"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)$"
_WRONG = re.compile(r"^\s*(?:Non-2xx or 3xx responses|Socket errors):.*$", re.MULTILINE)
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1_000.0, "m": 60_000.0}
_SCRIPT = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
{headers}
wrk.body = [[{body}]]
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What so many connections reached, each sending its next request when the last was answered."""

    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float


def post_for(
    url: str,
    body: str,
    *,
    connections: int,
    seconds: int,
    folder: Path,
    headers: Mapping[str, str] | None = None,
) -> Load:
    """POST the same JSON again and again, from one thread. Blocks; wrk is installed if it is missing.

    Raises:
        ProgramMissing: it is missing and may not be installed.
        ControlFailed: an answer was not a success.
    """
    program = require("wrk", "wrk")
    script = folder / "post.lua"
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in (headers or {}).items()]
    script.write_text(_SCRIPT.format(body=body, headers="\n".join(lines)))
    counts = ("-t1", f"-c{connections}", f"-d{seconds}s", "--latency")
    told = run_control(
        [str(program), *counts, "-s", str(script), url],
        environment={},
        folder=folder,
        timeout_seconds=seconds + _OVERTIME_SECONDS,
    )
    return read_load(told, connections=connections)


def read_load(told: str, *, connections: int) -> Load:
    """Return the figures in what wrk printed.

    Raises:
        ControlFailed: some requests failed, or the figures are not there.
    """
    rate, p50, p99 = (_RATE.search(told), _percentile(told, 50), _percentile(told, 99))
    if _WRONG.search(told) or rate is None or p50 is None or p99 is None:
        raise ControlFailed(f"wrk says that not all went well:\n{told}")
    return Load(connections, float(rate[1]), p50, p99)


def _percentile(told: str, percent: int) -> float | None:
    found = re.search(_PERCENTILE.format(percent=percent), told, re.MULTILINE)
    return round(float(found[1]) * _MILLISECONDS[found[2]], 3) if found else None
