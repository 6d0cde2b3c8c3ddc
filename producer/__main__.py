"""`python -m producer api | ledger | migrate`."""

import sys
import warnings

import click
import uvloop

from producer.ledger.service import run_ledger
from producer.store.migrate import migrate as migrate_store
from producer.store.store import JobStore
from shared.errors import RetrieverError, StaysUnready
from shared.logs import configure_logging
from shared.settings import Settings, read_settings
from shared.signals import stop_event
from shared.watchdog import EXIT_STATUS


@click.group()
@click.pass_context
def main(context: click.Context) -> None:
    """The side of Retriever that accepts jobs and keeps their records."""
    settings = read_settings()
    configure_logging(settings, process=context.invoked_subcommand or "producer")
    context.obj = settings


@main.command()
@click.pass_obj
def api(settings: Settings) -> None:
    """Serve the HTTP API until stopped."""
    # Here, so that the ledger does not carry the whole web framework in its memory.
    # Its test client warns at import; nothing of ours uses it.
    warnings.filterwarnings("ignore", module="connexion.apps.abstract")
    from producer.api.server import serve  # noqa: PLC0415

    serve(settings)


@main.command()
@click.pass_obj
def ledger(settings: Settings) -> None:
    """Relay jobs to RabbitMQ and record their results until stopped."""
    store = JobStore.open(settings.database_url)
    try:
        uvloop.run(_run_ledger(settings, store))
    finally:
        store.close()


@main.command()
@click.pass_obj
def migrate(settings: Settings) -> None:
    """Bring the store's schema to this version; harmless when it is there."""
    migrate_store(settings.database_url)


async def _run_ledger(settings: Settings, store: JobStore) -> None:
    await run_ledger(settings, store, stop_event())


if __name__ == "__main__":
    try:
        main()
    except RetrieverError as error:
        click.echo(f"retriever: {error}", err=True)
        sys.exit(EXIT_STATUS if isinstance(error, StaysUnready) else 2)
