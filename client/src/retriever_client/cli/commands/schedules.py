"""`retriever schedules`: jobs that are made again and again."""

import json
from typing import Any, Final

import click

from retriever_client.cli.commands.bulk import YES, confirm
from retriever_client.cli.commands.options import LABEL, limited, page_size, show_list
from retriever_client.cli.session import Session, SessionGroup, pass_session

_SCHEDULE: Final = (
    "id",
    "name",
    "cron",
    "timezone",
    "every_seconds",
    "paused",
    "runs",
    "next_run=next_runs.0",
)
_FIELDS: Final = (
    *_SCHEDULE[:-1],
    "next_runs",
    "skipped",
    "last_run",
    "last_error",
    "overlap",
    "labels",
    "job",
)


@click.group(cls=SessionGroup)
def schedules() -> None:
    """Let jobs be made again and again."""


@schedules.command("list")
@limited
@pass_session
def list_schedules(session: Session, limit: int, is_all: bool) -> None:
    """List schedules, newest first."""
    found = session.retriever.schedules.list(page_size=page_size(limit, is_all=is_all))
    show_list(session, found, _SCHEDULE, limit=limit, is_all=is_all)


@schedules.command("show")
@click.argument("schedule_id")
@pass_session
def show_schedule(session: Session, schedule_id: str) -> None:
    """Show a schedule."""
    session.output.one(session.retriever.schedules.get(schedule_id), _FIELDS)


@schedules.command(
    "create",
    epilog="""\b
Examples:
  retriever schedules create check --url https://example.com/ --cron '0 3 * * *' --timezone Europe/Berlin
  retriever schedules create fetch --args '{"url": "https://example.com/feed"}' --every 3600""",
)
@click.argument("kind")
@click.option("--url", help="The URL of the job; short for --args '{\"url\": ...}'.")
@click.option("--args", "args_text", metavar="JSON", help="The arguments of the job.")
@click.option("--cron", help="When, in five fields.")
@click.option("--timezone", help="Of --cron, such as Europe/Berlin. Default: UTC.")
@click.option("--every", "every_seconds", type=click.IntRange(1), metavar="SECONDS")
@click.option("--name")
@click.option("--overlap", help="What to do when the last run has not ended: skip or allow.")
@LABEL
@pass_session
def create_schedule(
    session: Session, /, kind: str, url: str | None, args_text: str | None, **more: Any
) -> None:
    """Make a schedule of a job of a kind."""
    try:
        args = json.loads(args_text) if args_text else {}
    except ValueError as error:
        raise click.BadParameter(f"--args is not JSON: {error}") from None
    job = {"kind": kind, "args": {**args, "url": url} if url else args}
    made = session.retriever.schedules.create(job=job, **{name: each for name, each in more.items() if each})
    session.output.one(made, _FIELDS)


@schedules.command("delete")
@click.argument("schedule_id")
@YES
@pass_session
def delete_schedule(session: Session, schedule_id: str, *, yes: bool) -> None:
    """Delete a schedule; what it has made stays."""
    found = session.retriever.schedules.get(schedule_id)
    confirm(f"Delete the schedule {found.name or found.id}, after {found.runs:,} runs?", yes=yes)
    session.retriever.schedules.delete(schedule_id)


def _add_change(action: str, words: str) -> None:
    @click.argument("schedule_id")
    @pass_session
    def change(session: Session, schedule_id: str) -> None:
        session.output.one(getattr(session.retriever.schedules, action)(schedule_id), _FIELDS)

    change.__doc__ = words
    schedules.command(action)(change)


_add_change("pause", "Let it make no runs until it is resumed.")
_add_change("resume", "Let it make runs again.")
_add_change("run", "Let it make a run now, beside its times.")
