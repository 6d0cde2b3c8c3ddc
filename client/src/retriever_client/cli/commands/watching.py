"""`retriever tail`, `stats`, `audit` and `open`: what happens, what there is, and who did what."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import click

from retriever_client.cli.commands.options import LABEL, limited, page_size, show_list
from retriever_client.cli.session import Session, SessionCommand, pass_session
from retriever_client.errors import NotFound
from retriever_client.models import Event

_EVENT: Final = ("finished_at", "type", "thing", "kind", "verdict", "reason", "url", "place")
_ENTRY: Final = ("at", "by", "action", "target", "details")
_STATS: Final = (
    "at",
    "jobs",
    "ended_last_minute",
    "ended_last_hour",
    "unfinished_batches",
    "running_operations",
    "cut",
)
# Where a thing with an id may be.
_PLACES: Final = ("jobs", "batches", "operations", "schedules")
_ALTERNATE: Final = re.compile(r"<([^>]+)>\s*;(?=[^,]*rel=\"?alternate)(?=[^,]*text/html)")


@dataclass(frozen=True, slots=True)
class _Told:
    """An event on one line."""

    raw: dict[str, Any]
    finished_at: Any
    type: str
    thing: str
    kind: str
    verdict: str | None
    reason: str | None
    url: str | None
    place: str


@click.command(
    cls=SessionCommand,
    epilog="""\b
Examples:
  retriever tail --state parked
  retriever tail --label team=docs -o ndjson --query 'job.reason'
  retriever tail --after 0 --no-follow -o csv > ended.csv""",
)
@click.option("--batch", metavar="ID", help="Only of this batch.")
@click.option("--kind", help="Only of this kind.")
@click.option("--state", "states", multiple=True, help="Of jobs only those that ended so. May be repeated.")
@LABEL
@click.option("--after", metavar="PLACE", help="Go on behind this event; 0 begins with the first.")
@click.option("--follow/--no-follow", default=True, help="Go on when all has been told.", show_default=True)
@pass_session
def tail(session: Session, /, states: tuple[str, ...], **which: Any) -> None:
    """Show what ends, as it ends, until Ctrl-C.

    A connection that is lost is made again, however long that takes, and nothing is missed.
    """
    events = session.retriever.events(states=[*states] or None, keep_on=True, **which)
    session.output.many(_told(events), _EVENT, at_once=True)


def _told(events: Iterator[Event]) -> Iterator[_Told]:
    for event in events:
        thing = event.job or event.batch
        if thing is None:
            continue
        of_job = event.job
        yield _Told(
            {"id": event.id, "type": event.type, "job" if of_job else "batch": event.raw},
            thing.finished_at,
            event.type,
            thing.id,
            thing.kind,
            of_job.verdict if of_job else None,
            of_job.reason if of_job else None,
            of_job.url if of_job else None,
            event.id,
        )


@click.command(cls=SessionCommand)
@pass_session
def stats(session: Session) -> None:
    """Show how much there is to do, and how fast it is done."""
    session.output.one(session.retriever.stats(), _STATS)


@click.command(
    cls=SessionCommand,
    epilog="\b\nExample:\n  retriever audit --target job/0199aa3e-7c1b-7d4e-9f00-3b1f6c2a9d10",
)
@click.option("--target", metavar="WHAT/ID", help="Such as job/ID, key/ID or host/NAME.")
@limited
@pass_session
def audit(session: Session, target: str | None, limit: int, is_all: bool) -> None:
    """Show who did what, newest first."""
    found = session.retriever.audit(target=target, page_size=page_size(limit, is_all=is_all))
    show_list(session, found, _ENTRY, limit=limit, is_all=is_all)


@click.command("open", cls=SessionCommand)
@click.argument("id_", metavar="ID")
@click.option("--print", "prints", is_flag=True, help="Only print the address.")
@pass_session
def open_page(session: Session, id_: str, *, prints: bool) -> None:
    """Open the page of a job, batch, operation or schedule.

    In a pipe its address is printed.
    """
    address = _address(session, id_)
    click.echo(address)
    if not prints and sys.stdout.isatty():
        click.launch(address)


def _address(session: Session, id_: str) -> str:
    client = session.retriever
    for place in _PLACES:
        try:
            answer = client.request("GET", f"/{place}/{id_}")
        except NotFound:
            continue
        page = _ALTERNATE.search(answer.headers.get("Link", ""))
        path = page[1] if page else f"/{place}/{id_}"
        return path if path.startswith(("http://", "https://")) else f"{client.url}{path}"
    raise click.UsageError(f"There is no job, batch, operation or schedule {id_}.")
