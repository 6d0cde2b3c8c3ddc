"""`python -m producer api | ledger | migrate | doctor | keys | projects | secrets | ...`."""

import sys
import warnings
from collections.abc import Mapping

import click
import uvloop

from producer.doctor import Health, examine
from producer.key_commands import keys
from producer.ledger.recovery import adopt_parked, chosen_queues, republish_all
from producer.ledger.service import run_ledger
from producer.project_commands import projects
from producer.secret_commands import secrets
from producer.store import unfinished
from producer.store.database import Database
from producer.store.engine import warn_of_open_store
from producer.store.migrate import migrate as migrate_store
from shared.errors import RetrieverError, SecretUnreadable, StaysUnready
from shared.kinds.registry import BROKERED_KINDS, Lane
from shared.log_lines import printable
from shared.process import prepare_process, stop_event, warn_of_open_broker
from shared.settings import Settings, read_settings
from shared.states import UNDER_WAY, JobState
from shared.watchdog import EXIT_STATUS


@click.group()
@click.pass_context
def main(context: click.Context) -> None:
    """The side of Retriever that accepts jobs and keeps their records."""
    settings = read_settings()
    prepare_process(settings, process=context.invoked_subcommand or "producer")
    context.obj = settings


main.add_command(keys)
main.add_command(secrets)
main.add_command(projects)


@main.command()
@click.pass_obj
def api(settings: Settings) -> None:
    """Serve the HTTP API until stopped."""
    # Here, so that the ledger does not carry the whole web framework in its memory.
    # Its test client warns at import; nothing of ours uses it.
    warnings.filterwarnings("ignore", module="connexion.apps.abstract")
    from producer.api.app import serve  # noqa: PLC0415

    warn_of_open_store(settings.database_url, unwarned=settings.no_tls_hosts)
    serve(settings)


@main.command()
@click.pass_obj
def ledger(settings: Settings) -> None:
    """Relay jobs to RabbitMQ and record their results until stopped."""
    warn_of_open_store(settings.database_url, unwarned=settings.no_tls_hosts)
    warn_of_open_broker(settings)
    store = Database.open(settings.database_url)
    try:
        store.check_settings()
        uvloop.run(_run_ledger(settings, store))
    finally:
        store.close()


@main.command()
@click.pass_obj
def migrate(settings: Settings) -> None:
    """Bring the store's schema to this version; harmless when it is there, or newer."""
    if not migrate_store(settings.database_url):
        click.echo("The tables are of a newer version, which this one may use: nothing was done.")


@main.command()
@click.pass_obj
def doctor(settings: Settings) -> None:
    """Look whether this machine's settings, the store and the broker are as they must be; change nothing."""
    findings = uvloop.run(examine(settings))
    for each in findings:
        click.echo(printable(f"{each.state:<5} {each.check:<7} {each.says}"))
        if each.todo:
            click.echo(printable(f"      {'':<7} -> {each.todo}"))
    if any(each.state is Health.BAD for each in findings):
        sys.exit(1)


@main.command()
@click.option("--kind", type=click.Choice(list(BROKERED_KINDS)), help="Only jobs of this kind.")
@click.option("--lane", type=click.Choice([lane.value for lane in Lane]), help="Only jobs of this lane.")
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@click.pass_obj
def republish(settings: Settings, kind: str | None, lane: str | None, dry_run: bool) -> None:
    """Send every unfinished job to RabbitMQ again, after it has lost them; doing so twice is harmless."""
    chosen = Lane(lane) if lane else None
    store = Database.open(settings.database_url)
    try:
        if dry_run:
            counts = store.read(unfinished.count_under_way, chosen_queues(kind, chosen))
            click.echo(f"would republish: {_counts(counts)}")
        else:
            sent = uvloop.run(republish_all(settings, store, kind=kind, lane=chosen))
            click.echo(f"republished: {_counts(sent)}")
    finally:
        store.close()


@main.command(name="adopt-parked")
@click.pass_obj
def adopt_parked_jobs(settings: Settings) -> None:
    """Store the parked jobs whose messages are in RabbitMQ, after the store was lost."""
    store = Database.open(settings.database_url)
    try:
        seen, adopted, closed = uvloop.run(adopt_parked(settings, store))
    finally:
        store.close()
    click.echo(f"adopted: {adopted} jobs of {seen} parked messages")
    if closed:
        said = f"The arguments of {closed} jobs do not open, and those were left: see the log above"
        raise SecretUnreadable(f"{said}, set RETRIEVER_ENCRYPTION_KEYS_FILE, and run this again")


def _counts(jobs: Mapping[JobState, int]) -> str:
    return ", ".join(f"{jobs.get(state, 0)} {state}" for state in UNDER_WAY)


async def _run_ledger(settings: Settings, store: Database) -> None:
    await run_ledger(settings, store, stop_event())


if __name__ == "__main__":
    try:
        main()
    except RetrieverError as error:
        click.echo(f"retriever: {printable(str(error))}", err=True)
        sys.exit(EXIT_STATUS if isinstance(error, StaysUnready) else 2)
