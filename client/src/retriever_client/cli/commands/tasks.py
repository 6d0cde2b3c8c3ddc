"""`retriever tasks`: work that agents pick. Agents pick, extend and finish through the client or the API."""

import json
from typing import Any, Final

import click

from retriever_client.cli.commands.options import LABEL, limited, page_size, show_list
from retriever_client.cli.session import Session, SessionGroup, pass_session

_TASK: Final = ("id", "queue", "state", "reason", "agent", "created_at", "leased_until")
_FIELDS: Final = (*_TASK, "attempt", "exit_code", "output", "labels", "ref", "explanation", "finished_at")


@click.group(cls=SessionGroup)
def tasks() -> None:
    """Hand in work that agents pick, and look at it."""


@tasks.command("list")
@click.option("--queue")
@click.option("--state", help="Such as queued, running or parked.")
@click.option("--ref")
@LABEL
@limited
@pass_session
def list_tasks(session: Session, /, limit: int, is_all: bool, **which: Any) -> None:
    """List tasks that match, newest first."""
    found = session.retriever.tasks.list(page_size=page_size(limit, is_all=is_all), **which)
    show_list(session, found, _TASK, limit=limit, is_all=is_all)


@tasks.command("show")
@click.argument("task_id")
@pass_session
def show_task(session: Session, task_id: str) -> None:
    """Show a task; `retriever jobs output` has what it has written."""
    session.output.one(session.retriever.tasks.get(task_id), _FIELDS)


@tasks.command(
    "submit",
    epilog="""\b
Examples:
  retriever tasks submit --queue films --payload '{"film": 7}'
  retriever tasks submit --command 'make backup'""",
)
@click.option("--queue", help="Default: default.")
@click.option("--command", help="For a shell of the agent.")
@click.option("--payload", "payload_text", metavar="JSON", help="For an agent of your own.")
@click.option("--ref")
@LABEL
@pass_session
def submit_task(session: Session, /, command: str | None, payload_text: str | None, **more: Any) -> None:
    """Hand in a task: a command, or a payload."""
    if (command is None) == (payload_text is None):
        raise click.UsageError("Give either --command or --payload.")
    try:
        payload = None if payload_text is None else json.loads(payload_text)
    except ValueError as error:
        raise click.BadParameter(f"--payload is not JSON: {error}") from None
    session.output.one(session.retriever.tasks.submit(command=command, payload=payload, **more), _FIELDS)


@tasks.command("abort")
@click.argument("ids", nargs=-1, required=True, metavar="TASK_ID...")
@pass_session
def abort_tasks(session: Session, ids: tuple[str, ...]) -> None:
    """Cancel tasks: at once when they wait; agents are told when they extend their leases."""
    session.output.many((session.retriever.tasks.abort(each) for each in ids), _TASK)
