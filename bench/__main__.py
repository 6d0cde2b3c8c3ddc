"""`python -m bench PART [OPTION ...]`: measurements by name; `make bench ARGS="PART [OPTION ...]"`."""

import click

from bench.attacks import attacks
from bench.delays import delays
from bench.flatness import memory
from bench.hostile import hostile
from bench.hosts import hosts
from bench.keys import keys
from bench.lanes import lanes
from bench.latency import latency
from bench.links import links
from bench.pipeline import pipeline
from bench.store import store
from bench.submission import submission
from bench.tasks import tasks
from bench.throughput import throughput

PARTS = (throughput, submission, latency, lanes, delays, pipeline, tasks, store, memory, keys, hosts, links)
JUDGEMENTS = (attacks, hostile)
"""They measure too, but end with status 1 when a figure is not as it must be."""


@click.group()
def main() -> None:
    """Measure Retriever on this machine, beside other systems. Ends everything that it starts."""


@main.command("all")
@click.option("--quick", is_flag=True, help="Each part as short as it can be, to see that all of it works.")
@click.pass_context
def run_all(context: click.Context, quick: bool) -> None:
    """Every part but attacks and hostile, one after another. Without --quick it takes an hour or so."""
    for part in PARTS:
        context.invoke(part, quick=quick)


for part in (*PARTS, *JUDGEMENTS):
    main.add_command(part)

if __name__ == "__main__":
    main()
