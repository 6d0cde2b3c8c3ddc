"""Options and columns that several groups have, written once."""

from collections.abc import Iterable
from itertools import islice
from typing import Final, TypeVar

import click

from retriever_client.cli.output import say
from retriever_client.cli.parameters import Pair, several
from retriever_client.cli.session import Session

JOB: Final = ("id", "kind", "state", "verdict", "reason", "url", "created_at")
JOB_FIELDS: Final = (*JOB, "finished_at", "attempt", "batch_id", "labels", "ref", "explanation")
BATCH: Final = ("id", "kind", "total", "ended", "counts", "created_at", "finished_at")
OPERATION: Final = ("id", "action", "state", "total", "done", "skipped", "created_at")

T = TypeVar("T")

LIMIT: Final = click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most."
)
ALL: Final = click.option("--all", "is_all", is_flag=True, help="However many there are.")
LABEL: Final = click.option(
    "--label",
    "labels",
    type=Pair("="),
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda *each: dict(each[2]),
)
limited: Final = several(LIMIT, ALL)
"""Gives a command both."""

WAIT: Final = click.option("--wait", type=click.FloatRange(min=0), help="Seconds at most. Default: for ever.")


def show_list(
    session: Session, found: Iterable[T], columns: tuple[str, ...], *, limit: int, is_all: bool
) -> None:
    """Print what there is, up to a limit, and say so when there is more."""
    rest = iter(found)
    shown = session.output.many(rest if is_all else islice(rest, limit), columns)
    if not is_all and shown == limit and next(rest, None) is not None:
        say(f"The first {limit}; --limit or --all shows more.")


def page_size(limit: int, *, is_all: bool) -> int:
    """Return how many to ask for at once: one more than is shown tells whether there are more."""
    return 500 if is_all else min(limit + 1, 500)
