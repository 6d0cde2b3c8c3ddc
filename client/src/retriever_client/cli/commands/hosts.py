"""`retriever hosts`: how hard each may be asked, and how it is."""

from typing import Final

import click

from retriever_client.cli.commands.options import limited, page_size, show_list
from retriever_client.cli.session import Session, SessionGroup, pass_session

_HOST: Final = (
    "host",
    "waiting",
    "in_flight",
    "at_once=allowed.concurrency",
    "per_second=allowed.rate_per_second",
    "pace",
    "breaker",
    "paused_until",
)
_FIELDS: Final = (
    *_HOST,
    "limit.concurrency",
    "limit.rate_per_second",
    "is_set",
    "answers",
    "complaints",
    "breaker_until",
)


@click.group(cls=SessionGroup)
def hosts() -> None:
    """See what hosts bear, and limit how hard they are asked."""


@hosts.command("list")
@limited
@pass_session
def list_hosts(session: Session, limit: int, is_all: bool) -> None:
    """List hosts that come near their limits or have one of their own, by name."""
    found = session.retriever.hosts.list(page_size=page_size(limit, is_all=is_all))
    show_list(session, found, _HOST, limit=limit, is_all=is_all)


@hosts.command("show")
@click.argument("host")
@pass_session
def show_host(session: Session, host: str) -> None:
    """Show a host."""
    session.output.one(session.retriever.hosts.get(host), _FIELDS)


@hosts.command(
    "limit",
    epilog="""\b
Examples:
  retriever hosts limit example.com --at-once 4 --per-second 10
  retriever hosts limit example.com --clear""",
)
@click.argument("host")
@click.option("--at-once", "concurrency", type=click.IntRange(1, 2_000), help="Jobs at once.")
@click.option("--per-second", "rate", type=click.FloatRange(0), help="Jobs a second; 0 is no limit.")
@click.option("--clear", is_flag=True, help="Let the settings say it again.")
@pass_session
def limit_host(
    session: Session, host: str, *, concurrency: int | None, rate: float | None, clear: bool
) -> None:
    """Limit how hard a host is asked, over all workers together; it holds at once."""
    if clear == (concurrency is not None):
        raise click.UsageError("Give either --at-once, with or without --per-second, or --clear.")
    found = session.retriever.hosts
    if concurrency is None:
        session.output.one(found.clear_limit(host), _FIELDS)
    else:
        session.output.one(found.set_limit(host, concurrency=concurrency, rate_per_second=rate), _FIELDS)
