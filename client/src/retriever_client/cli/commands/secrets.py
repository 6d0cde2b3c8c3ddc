"""`retriever secrets`: what jobs send along, and nobody sees again."""

import sys
from pathlib import Path
from typing import Final

import click

from retriever_client.cli.commands.bulk import YES, confirm
from retriever_client.cli.commands.options import limited, page_size, show_list
from retriever_client.cli.output import say
from retriever_client.cli.session import Session, SessionGroup, pass_session
from retriever_client.models import NewSecret

_SECRET: Final = ("id", "name", "project", "use", "origins", "updated_at", "last_used_at")
_FIELDS: Final = (*_SECRET, "digest", "key_id", "previous_until", "created_at", "created_by")
_VALUE: Final = click.option(
    "--value-file", type=click.Path(allow_dash=True), metavar="FILE", help="Has the value; - is stdin."
)
_MAKE: Final = click.option("--make", is_flag=True, help="Let the service make it: webhook secrets alone.")


@click.group(cls=SessionGroup)
def secrets() -> None:
    """Keep what jobs send along.

    Values come from a file, stdin or a prompt, never from an option.
    """


@secrets.command("list")
@limited
@pass_session
def list_secrets(session: Session, limit: int, is_all: bool) -> None:
    """List secrets, newest first, without their values."""
    found = session.retriever.secrets.list(page_size=page_size(limit, is_all=is_all))
    show_list(session, found, _SECRET, limit=limit, is_all=is_all)


@secrets.command("show")
@click.argument("secret_id")
@pass_session
def show_secret(session: Session, secret_id: str) -> None:
    """Show a secret, without its value."""
    session.output.one(session.retriever.secrets.get(secret_id), _FIELDS)


@secrets.command(
    "create",
    epilog="""\b
Examples:
  retriever secrets create crm --origin https://api.crm.example --value-file token.txt
  retriever secrets create hook --origin https://hooks.example --use webhook --make""",
)
@click.argument("name")
@click.option("--origin", "origins", multiple=True, required=True, help="Where it may go. May be repeated.")
@click.option("--use", type=click.Choice(["request", "webhook"]), help="Default: request.")
@click.option("--project")
@_VALUE
@_MAKE
@pass_session
def create_secret(
    session: Session,
    *,
    name: str,
    origins: tuple[str, ...],
    use: str | None,
    project: str | None,
    value_file: str | None,
    make: bool,
) -> None:
    """Keep a secret under a name by which jobs use it."""
    value = _value(value_file, make=make)
    _show(
        session,
        session.retriever.secrets.create(name, origins=origins, value=value, use=use, project=project),
    )


@secrets.command("replace")
@click.argument("secret_id")
@click.option("--origin", "origins", multiple=True, help="Where it may go now. Default: as before.")
@click.option("--overlap", "overlap_seconds", type=click.IntRange(0), metavar="SECONDS")
@_VALUE
@_MAKE
@pass_session
def replace_secret(
    session: Session,
    *,
    secret_id: str,
    origins: tuple[str, ...],
    overlap_seconds: int | None,
    value_file: str | None,
    make: bool,
) -> None:
    """Give a secret another value."""
    value = _value(value_file, make=make)
    made = session.retriever.secrets.replace(
        secret_id, value=value, origins=origins or None, overlap_seconds=overlap_seconds
    )
    _show(session, made)


@secrets.command("delete")
@click.argument("secret_id")
@YES
@pass_session
def delete_secret(session: Session, secret_id: str, *, yes: bool) -> None:
    """Delete a secret; jobs that name it fail from then on."""
    found = session.retriever.secrets.get(secret_id)
    confirm(f"Delete the secret {found.name} of {found.project}?", yes=yes)
    session.retriever.secrets.delete(secret_id)


def _value(value_file: str | None, *, make: bool) -> str | None:
    """Return the value; None lets the service make it. One line end behind it is not part of it."""
    if make:
        return None
    if value_file is None and sys.stdin.isatty():
        prompted: str = click.prompt("Value", hide_input=True, confirmation_prompt=True, err=True)
        return prompted
    if value_file is None:
        raise click.UsageError("Give --value-file, - for stdin, or --make.")
    try:
        text = sys.stdin.read() if value_file == "-" else Path(value_file).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise click.UsageError(f"The value cannot be read: {error}") from None
    return text.removesuffix("\n").removesuffix("\r")


def _show(session: Session, made: NewSecret) -> None:
    session.output.one(made, _FIELDS if made.value is None else (*_FIELDS, "value"))
    if made.value is not None:
        say("The value is not shown again.")
