"""What a measurement tells a peer in variables: the broker, the queue, and the URL of each job."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PREFETCH = 200


@dataclass(frozen=True, slots=True)
class Place:
    """Where jobs are and what they ask; with no URL a job is a no-op."""

    amqp_url: str
    queue: str
    url: str

    def page(self, number: int) -> str:
        """Return what a job asks: each another page of the one site, as in life; with no URL nothing."""
        return f"{self.url}/{number}" if self.url else ""


def read_place() -> Place:
    """Return what the variables say.

    Raises:
        KeyError: one is not set.
    """
    return Place(os.environ["BENCH_AMQP_URL"], os.environ["BENCH_QUEUE"], os.environ["BENCH_URL"])


def run(
    *,
    fill: Callable[[int], None],
    work: Callable[[Sequence[str]], None],
    delay: Callable[[str, float], None] | None = None,
) -> None:
    """Do what the command line says: enqueue so many jobs, or work with these options until SIGTERM.

    `delay` enqueues one job that asks a URL after so many seconds; some systems are not asked for it.
    """
    match sys.argv[1:]:
        case ["fill", jobs]:
            fill(int(jobs))
        case ["work", *options]:
            work(options)
        case ["delay", jobs, seconds, per_second] if delay is not None:
            _delay_all(delay, jobs=int(jobs), seconds=float(seconds), per_second=float(per_second))
        case _:
            sys.exit(f"usage: {sys.argv[0]} fill JOBS | delay JOBS SECONDS PER_SECOND | work [OPTION ...]")


def become(module: str, *arguments: str) -> None:
    """Go on as a system's own program, in this very process, so that its id stays."""
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - a shell would hide us


def _delay_all(delay: Callable[[str, float], None], *, jobs: int, seconds: float, per_second: float) -> None:
    """Enqueue so many a second, or fewer if it takes longer; each URL says when it is due."""
    url, began = read_place().url, time.monotonic()
    for number in range(jobs):
        time.sleep(max(0.0, began + number / per_second - time.monotonic()))
        delay(f"{url}/due/{round((time.time() + seconds) * 1_000)}", seconds)
