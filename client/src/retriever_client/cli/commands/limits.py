"""`retriever limits`: what a project may have, and has."""

from typing import Final

import click

from retriever_client.cli.session import Session, SessionGroup, pass_session

_LIMIT: Final = ("name", "value", "used", "source", "description")


@click.group(cls=SessionGroup)
def limits() -> None:
    """See what a project may have and has; operators set it."""


@limits.command("show")
@click.argument("project", required=False)
@pass_session
def show_limits(session: Session, project: str | None) -> None:
    """Show the limits of a project, yours without a name; * is what holds for all others."""
    session.output.many(session.retriever.limits.get(project).items, _LIMIT)


@limits.command("set", epilog="\b\nExample:\n  retriever limits set docs stored_jobs=1000000 schedules=none")
@click.argument("project")
@click.argument("changes", nargs=-1, required=True, metavar="NAME=NUMBER|NAME=none...")
@pass_session
def set_limits(session: Session, project: str, changes: tuple[str, ...]) -> None:
    """Change limits of a project; those that are not named stay as they are."""
    now = session.retriever.limits.get(project)
    # On `*` every limit is of its own.
    own = {each.name: each.value for each in now.items if each.source == "project" or project == "*"}
    for change in changes:
        name, equals, number = change.partition("=")
        if not equals or not (number == "none" or number.isdecimal()):
            raise click.BadParameter(f"{change!r} is neither NAME=NUMBER nor NAME=none.")
        own[name] = None if number == "none" else int(number)
    session.output.many(session.retriever.limits.set(project, own).items, _LIMIT)
