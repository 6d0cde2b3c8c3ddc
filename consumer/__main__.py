"""`python -m consumer worker --kinds check,fetch,webhook`."""

import sys
from collections.abc import Sequence

import click
import uvloop

from consumer.bootstrap import run_worker
from consumer.handlers.registry import check_handlers
from shared.errors import RetrieverError, SettingsInvalid, StaysUnready
from shared.process import prepare_process, stop_event
from shared.settings import Settings, read_settings
from shared.watchdog import EXIT_STATUS

# Not commands: nobody serves those by accident.
_DEFAULT_KINDS = "check,fetch,webhook"


@click.group()
def main() -> None:
    """The side of Retriever that does the work."""


@main.command()
@click.option("--kinds", default=_DEFAULT_KINDS, show_default=True, help="Kinds of jobs to work on.")
def worker(kinds: str) -> None:
    """Work on jobs until stopped; then let those in hand end, within the grace period."""
    settings = read_settings()
    # Hundreds of jobs in hand make hardly any cycles.
    prepare_process(settings, process="worker", collect_every=50_000)
    chosen = list(dict.fromkeys(kind.strip() for kind in kinds.split(",") if kind.strip()))
    if not chosen:
        raise SettingsInvalid("--kinds: name at least one kind")
    check_handlers(chosen)
    uvloop.run(_run_worker(settings, chosen))


async def _run_worker(settings: Settings, kinds: Sequence[str]) -> None:
    await run_worker(settings, kinds, stop_event())


if __name__ == "__main__":
    try:
        main()
    except RetrieverError as error:
        click.echo(f"retriever: {error}", err=True)
        sys.exit(EXIT_STATUS if isinstance(error, StaysUnready) else 2)
