"""Part (j): `retriever check` beside the bare API, and the memory it needs.

`make bench ARGS=links`. Both check the same list of URLs of one local site, in turns: the one reports them by
line and column, the other is a script of a few lines that sends them, waits and reads the results. Each is a
process, and its start counts. Memory is that for Markdown documents.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.memory import MemoryWatch
from bench.report import machine, write_report
from bench.system import POSTGRESQL, STORES, System, open_system
from deploy.local.errors import LocalError

URLS = 10_000
ROUNDS = 5
LINKS_A_DOCUMENT = 100
# For the memory: a tenth of them, and three times as many.
SIZES = (1_000, 10_000, 30_000)
DEADLINE_SECONDS = 900.0
ROOT = Path(__file__).resolve().parents[1]

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run of the command ended."""

    seconds: float
    cpu_seconds: float
    peak_mebibytes: float


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the URLs, one round: its figures say nothing.")
@click.option(
    "--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1), help="Of each, in turns."
)
@click.option("--store", default=POSTGRESQL, show_default=True, type=click.Choice(STORES))
def links(quick: bool, rounds: int, store: str) -> None:
    """`retriever check` of 10,000 URLs beside the bare API, and its memory."""
    divisor, rounds = (10, 1) if quick else (1, rounds)
    report: Figures = {**machine(), "store": store, "urls": URLS // divisor, "rounds": rounds}
    try:
        with open_system(store) as system, tempfile.TemporaryDirectory(prefix="retriever-links-") as folder:
            report |= _measure(system, Path(folder), URLS // divisor, rounds)
            report["memory"] = _memory(system, Path(folder), [size // divisor for size in SIZES])
    except (LocalError, TimeoutError, subprocess.CalledProcessError) as error:
        print(f"bench links: {error}", file=sys.stderr)
        sys.exit(1)
    print(report, flush=True)
    write_report(f"links-{store}{'-quick' if quick else ''}", report)


def _measure(system: System, folder: Path, urls: int, rounds: int) -> Figures:
    bare: list[Ended] = []
    ours: list[Ended] = []
    # The first of each warms caches, pools and connections.
    for number in range(rounds + 1):
        bare.append(_bare(system, f"{system.target_url}/bare-{number}", urls))
        listed = folder / f"round-{number}.txt"
        target_url = f"{system.target_url}/ours-{number}"
        listed.write_text("".join(f"{target_url}/{each}\n" for each in range(urls)))
        ours.append(_check(system, listed))
        print(f"{number}: bare {bare[-1]}, check {ours[-1]}", flush=True)
    seconds_bare = statistics.median(each.seconds for each in bare[1:])
    seconds = statistics.median(each.seconds for each in ours[1:])
    return {
        "bare_seconds": round(seconds_bare, 2),
        "check_seconds": round(seconds, 2),
        "overhead_percent": round(100 * (seconds / seconds_bare - 1), 1),
        "bare_cpu_seconds": round(statistics.median(each.cpu_seconds for each in bare[1:]), 2),
        "check_cpu_seconds": round(statistics.median(each.cpu_seconds for each in ours[1:]), 2),
        "bare_rounds": [round(each.seconds, 2) for each in bare[1:]],
        "check_rounds": [round(each.seconds, 2) for each in ours[1:]],
    }


def _memory(system: System, folder: Path, sizes: Sequence[int]) -> Mapping[str, float]:
    """Return the peak of the command's memory in MiB by how many URLs it checked."""
    return {
        str(size): _check(
            system, _documents(folder / f"size-{size}", f"{system.target_url}/size-{size}", size)
        ).peak_mebibytes
        for size in sizes
    }


def _bare(system: System, target_url: str, urls: int) -> Ended:
    arguments = [system.api_url, target_url, str(urls), str(DEADLINE_SECONDS)]
    return _run(system, [sys.executable, "-m", "bench.batch", *arguments])


def _documents(folder: Path, target_url: str, urls: int) -> Path:
    """Write documents with so many different links, and return their folder."""
    folder.mkdir()
    for first in range(0, urls, LINKS_A_DOCUMENT):
        lines = [
            f"See [page {number}]({target_url}/{number}).\n"
            for number in range(first, min(urls, first + LINKS_A_DOCUMENT))
        ]
        (folder / f"{first}.md").write_text("# Links\n\n" + "\n".join(lines))
    return folder


def _check(system: System, inputs: Path) -> Ended:
    return _run(
        system, [sys.executable, "-m", "retriever_client.cli.main", "check", str(inputs), "-o", "json"]
    )


def _run(system: System, command: Sequence[str]) -> Ended:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RETRIEVER_")},
        "RETRIEVER_URL": system.api_url,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "client" / "src"), str(ROOT)]),
    }
    began = time.monotonic()
    with (system.logs / "check.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        watch = MemoryWatch({"command": process.pid})
        with watch.phase("run"):
            # Its own CPU time, which the other ways to wait do not give. Its greatest memory is not there:
            # that counts what it was forked from.
            _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Ended(
        seconds=time.monotonic() - began,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_mebibytes=watch.report()["command"]["peak_run"],
    )


if __name__ == "__main__":
    links()
