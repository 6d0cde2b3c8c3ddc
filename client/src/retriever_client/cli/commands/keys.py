"""`retriever keys`: what opens the API, and how much of it."""

import os
from pathlib import Path
from typing import Final

import click

from retriever_client.cli.commands.bulk import YES, confirm
from retriever_client.cli.commands.options import limited, page_size, show_list
from retriever_client.cli.output import say
from retriever_client.cli.session import Session, SessionGroup, pass_session
from retriever_client.models import NewKey

_KEY: Final = ("id", "name", "project", "scopes", "state", "starts", "expires_at", "last_used_at")
_FIELDS: Final = (*_KEY, "rate_per_second", "created_at", "created_by", "revoked_at")
_TO: Final = click.option(
    "--to", type=click.Path(dir_okay=False, path_type=Path), help="A new file for the text, for you alone."
)


@click.group(cls=SessionGroup)
def keys() -> None:
    """Make, list, rotate and revoke keys of the API."""


@keys.command("list")
@limited
@pass_session
def list_keys(session: Session, limit: int, is_all: bool) -> None:
    """List keys, newest first; their texts are not kept anywhere."""
    found = session.retriever.keys.list(page_size=page_size(limit, is_all=is_all))
    show_list(session, found, _KEY, limit=limit, is_all=is_all)


@keys.command("show")
@click.argument("key_id")
@pass_session
def show_key(session: Session, key_id: str) -> None:
    """Show a key, without its text."""
    session.output.one(session.retriever.keys.get(key_id), _FIELDS)


@keys.command(
    "create",
    epilog="""\b
Examples:
  retriever keys create ci --scope jobs:read --scope jobs:write --to ~/.config/retriever/ci-key
  retriever keys create dashboard --scope jobs:read --expires-in-days 90 --query key -o plain""",
)
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, help="Such as jobs:read. May be repeated.")
@click.option("--project", help="What it sees. Default: what yours sees.")
@click.option("--expires-in-days", "days", type=click.FloatRange(min=0.001))
@click.option("--per-second", "rate", type=click.IntRange(1), help="Requests a second.")
@_TO
@pass_session
def create_key(
    session: Session,
    *,
    name: str,
    scopes: tuple[str, ...],
    project: str | None,
    days: float | None,
    rate: int | None,
    to: Path | None,
) -> None:
    """Make a key. Its text is shown, or written to a file, this once."""
    _check_new(to)
    made = session.retriever.keys.create(
        name,
        scopes=scopes,
        project=project,
        expires_in_seconds=None if days is None else round(days * 86_400),
        rate_per_second=rate,
    )
    _show(session, made, to)


@keys.command("rotate")
@click.argument("key_id")
@click.option(
    "--overlap",
    "overlap_seconds",
    type=click.IntRange(0),
    metavar="SECONDS",
    help="How long the text before opens the same. Default: a day.",
)
@_TO
@pass_session
def rotate_key(session: Session, key_id: str, *, overlap_seconds: int | None, to: Path | None) -> None:
    """Give a key another text, which is shown, or written to a file, this once."""
    _check_new(to)
    _show(session, session.retriever.keys.rotate(key_id, overlap_seconds=overlap_seconds), to)


@keys.command("revoke")
@click.argument("key_id")
@YES
@pass_session
def revoke_key(session: Session, key_id: str, *, yes: bool) -> None:
    """Let a key open nothing any more."""
    found = session.retriever.keys.get(key_id)
    confirm(f"Revoke the key {found.name}? Whoever uses it is locked out at once.", yes=yes)
    session.output.one(session.retriever.keys.revoke(key_id), _FIELDS)


def _check_new(to: Path | None) -> None:
    if to is not None and to.exists():
        raise click.UsageError(f"{to} is there already; nothing was done.")


def _show(session: Session, made: NewKey, to: Path | None) -> None:
    if to is None:
        session.output.one(made, (*_FIELDS, "key"))
        say("The key is not shown again.")
        return
    with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{made.key}\n")
    session.output.one({name: value for name, value in made.raw.items() if name != "key"}, _FIELDS)
    say(f"The key is in {to}.")
