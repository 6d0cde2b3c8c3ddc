"""What a measurement tells a peer in variables: the broker, the queue, and the URL of each job."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PREFETCH = 200


@dataclass(frozen=True, slots=True)
class Place:
    """Where jobs are and what they ask; with no URL a job is a no-op."""

    amqp_url: str
    queue: str
    url: str


def read_place() -> Place:
    """Return what the variables say.

    Raises:
        KeyError: one is not set.
    """
    return Place(os.environ["BENCH_AMQP_URL"], os.environ["BENCH_QUEUE"], os.environ["BENCH_URL"])


def run(*, fill: Callable[[int], None], work: Callable[[Sequence[str]], None]) -> None:
    """Do what the command line says: enqueue so many jobs, or work with these options until SIGTERM."""
    match sys.argv[1:]:
        case ["fill", jobs]:
            fill(int(jobs))
        case ["work", *options]:
            work(options)
        case _:
            sys.exit(f"usage: {sys.argv[0]} fill JOBS | work [OPTION ...]")


def become(module: str, *arguments: str) -> None:
    """Go on as a system's own program, in this very process, so that its id stays."""
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - a shell would hide us
