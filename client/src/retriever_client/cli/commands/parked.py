"""`retriever parked`: the jobs that were given up, by kind, reason and host."""

from collections.abc import Callable
from typing import Any, Final

import click

from retriever_client.cli.commands.bulk import bulk_options, decide_on_many
from retriever_client.cli.output import say
from retriever_client.cli.parameters import several
from retriever_client.cli.session import Session, SessionGroup, pass_session
from retriever_client.models import ParkedGroup

_GROUP: Final = ("count", "kind", "reason", "host", "last_parked_at", "sample_job_id", "sample_explanation")
_SHOWN_FIRST: Final = 5


@click.group(cls=SessionGroup)
def parked() -> None:
    """Look at the jobs that were given up, and decide on them."""


_filters: Final = several(
    click.option("--kind", help="Such as check or fetch."),
    click.option("--host", help="Exactly this host."),
    click.option("--reason", help="Parked for this reason, such as http_503."),
    click.option("--batch", metavar="ID", help="Of this batch."),
)


@parked.command("list", epilog="\b\nExample:\n  retriever parked list --reason http_503 -o csv")
@_filters
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="Of groups.")
@pass_session
def list_parked(session: Session, /, limit: int, **which: Any) -> None:
    """List parked jobs in groups of one kind, reason and host, the largest first."""
    found = session.retriever.parked.groups(limit=limit, **which)
    session.output.many(found.items, _GROUP)
    if found.total_groups > len(found.items):
        say(f"The first {len(found.items)} of {found.total_groups} groups; --limit shows more.")
    if session.output.format == "table" and session.output.query is None:
        say(f"{found.total_jobs:,} parked jobs.")


def _add_decision(action: str, words: str) -> None:
    @_filters
    @click.option("--older-than", "older_than_seconds", type=click.IntRange(0), metavar="SECONDS")
    @click.option("--every", is_flag=True, help="All parked jobs there are.")
    @bulk_options
    @pass_session
    def decide(
        session: Session, /, every: bool, rate: int | None, dry_run: bool, yes: bool, **which: Any
    ) -> None:
        chosen = {name: value for name, value in which.items() if value is not None}
        if every == bool(chosen):
            raise click.UsageError("Say which by options such as --host or --reason, or --every.")
        chosen = chosen or {"older_than_seconds": 0}
        lot = session.retriever.parked
        shown = {name: value for name, value in chosen.items() if name != "older_than_seconds"}
        do: Callable[..., Any] = getattr(lot, action)
        decide_on_many(
            session,
            "Send back" if action == "redrive" else action.capitalize(),
            matching=lot.count(**chosen),
            samples=map(_sample, lot.groups(limit=_SHOWN_FIRST, **shown).items),
            begin=lambda: do(rate_per_second=rate, **chosen),
            dry_run=dry_run,
            yes=yes,
        )

    decide.__doc__ = f"""{words}

    What would be touched is shown first, and you are asked.
    """
    example = f"\b\nExample:\n  retriever parked {action} --host example.com --reason http_503 --dry-run"
    parked.command(action, epilog=example)(decide)


def _sample(group: ParkedGroup) -> str:
    return f"{group.count:,}  {group.kind}  {group.reason}  {group.host}"


_add_decision("redrive", "Send parked jobs back.")
_add_decision("discard", "End parked jobs for good.")
