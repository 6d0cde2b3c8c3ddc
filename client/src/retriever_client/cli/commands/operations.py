"""`retriever operations`: what is being done with many jobs."""

import click

from retriever_client.cli.commands.options import OPERATION, WAIT, limited, page_size, show_list
from retriever_client.cli.output import say
from retriever_client.cli.session import Session, SessionGroup, pass_session
from retriever_client.models import Operation

_FIELDS = (*OPERATION, "finished_at", "rate_per_second", "filter", "by")


@click.group(cls=SessionGroup)
def operations() -> None:
    """Follow what is being done with many jobs, and end it early."""


@operations.command("list")
@limited
@pass_session
def list_operations(session: Session, limit: int, is_all: bool) -> None:
    """List operations, newest first."""
    found = session.retriever.operations.list(page_size=page_size(limit, is_all=is_all))
    show_list(session, found, OPERATION, limit=limit, is_all=is_all)


@operations.command("show")
@click.argument("operation_id")
@pass_session
def show_operation(session: Session, operation_id: str) -> None:
    """Show an operation."""
    session.output.one(session.retriever.operations.get(operation_id), _FIELDS)


@operations.command("watch")
@click.argument("operation_id")
@WAIT
@pass_session
def watch_operation(session: Session, operation_id: str, wait: float | None) -> None:
    """Wait until an operation is done, and show it; progress goes to stderr."""

    def tell(operation: Operation) -> None:
        say(f"{operation.done:,} of {operation.total:,} done, {operation.skipped:,} skipped")

    found = session.retriever.operations
    session.output.one(found.wait(operation_id, timeout_seconds=wait, on_progress=tell), _FIELDS)


@operations.command("cancel")
@click.argument("operation_id")
@pass_session
def cancel_operation(session: Session, operation_id: str) -> None:
    """End an operation early; what it has done stays done."""
    session.output.one(session.retriever.operations.cancel(operation_id), _FIELDS)
