"""Deciding on many jobs: what it would touch is shown first, and a person is asked."""

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import click

from retriever_client.cli.commands.options import OPERATION
from retriever_client.cli.exit_codes import ExitCode
from retriever_client.cli.output import say
from retriever_client.cli.parameters import several
from retriever_client.cli.session import Session

_RATE: Final = click.option("--rate", type=click.IntRange(1, 1_000), help="Jobs a second. Default: 50.")
_DRY_RUN: Final = click.option("--dry-run", is_flag=True, help="Only say how many there are.")
YES: Final = click.option("--yes", is_flag=True, help="Do not ask; needed where nobody can answer.")
bulk_options: Final = several(_RATE, _DRY_RUN, YES)
"""Gives a command all three."""


def confirm(question: str, *, yes: bool) -> None:
    """Return when a person agrees, or has agreed beforehand.

    Raises:
        click.UsageError: nobody is there to be asked.
        click.exceptions.Exit: they do not.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"{question} Nobody is there to answer: add --yes.")
    if not click.confirm(question, err=True):
        say("Nothing was done.")
        raise click.exceptions.Exit(ExitCode.USAGE)


def decide_on_many(
    session: Session,
    words: str,
    *,
    matching: int,
    samples: Iterable[str],
    begin: Callable[[], Any],
    dry_run: bool,
    yes: bool,
) -> None:
    """Show what would be touched; unless that is all, ask, begin, and print the operation.

    Args:
        words: What is done, such as "Discard".
        matching: How many jobs match now.
        samples: What some of them are, a line each.
    """
    if dry_run:
        session.output.one({"matching": matching}, ("matching",))
        return
    if not matching:
        say("No job matches; nothing was done.")
        return
    jobs = "1 job matches" if matching == 1 else f"{matching:,} jobs match"
    say(f"{jobs}, such as:")
    for line in samples:
        say(f"  {line}")
    confirm(f"{words} {'it' if matching == 1 else f'all {matching:,}'}?", yes=yes)
    operation = begin()
    session.output.one(operation, OPERATION)
    say(f"It goes on by itself; to follow it: retriever operations watch {operation.id}")
