"""`retriever batches`: look at batches, and decide on them."""

import click

from retriever_client.cli.commands.bulk import YES, confirm
from retriever_client.cli.commands.options import (
    BATCH,
    JOB,
    LABEL,
    OPERATION,
    WAIT,
    limited,
    page_size,
    show_list,
)
from retriever_client.cli.output import say
from retriever_client.cli.session import Session, SessionGroup, pass_session
from retriever_client.models import Batch


@click.group(cls=SessionGroup)
def batches() -> None:
    """Look at batches, and decide on them."""


@batches.command("list")
@LABEL
@limited
@pass_session
def list_batches(session: Session, labels: dict[str, str], limit: int, is_all: bool) -> None:
    """List batches, newest first."""
    found = session.retriever.batches.list(labels=labels, page_size=page_size(limit, is_all=is_all))
    show_list(session, found, BATCH, limit=limit, is_all=is_all)


@batches.command("show")
@click.argument("batch_id")
@pass_session
def show_batch(session: Session, batch_id: str) -> None:
    """Show a batch."""
    session.output.one(session.retriever.batches.get(batch_id), BATCH)


@batches.command("watch")
@click.argument("batch_id")
@WAIT
@pass_session
def watch_batch(session: Session, batch_id: str, wait: float | None) -> None:
    """Wait until all jobs of a batch have ended, and show it; progress goes to stderr."""

    def tell(batch: Batch) -> None:
        say(f"{batch.ended} of {batch.total} ended, {batch.rate_per_second:g} a second")

    done = session.retriever.batches.wait(batch_id, timeout_seconds=wait, on_progress=tell)
    session.output.one(done, BATCH)


@batches.command("results")
@click.argument("batch_id")
@click.option("--follow", is_flag=True, help="As they end, until all have.")
@pass_session
def show_results(session: Session, batch_id: str, *, follow: bool) -> None:
    """Show what became of the jobs of a batch."""
    found = session.retriever.batches.results(batch_id, as_they_end=follow)
    session.output.many(found, JOB, at_once=follow)


@batches.command("rejected")
@click.argument("batch_id")
@limited
@pass_session
def show_rejected(session: Session, batch_id: str, limit: int, is_all: bool) -> None:
    """Show the lines of a batch that became no job, and why."""
    found = session.retriever.batches.rejected(batch_id, page_size=page_size(limit, is_all=is_all))
    show_list(session, found, ("number", "ref", "given", "msg"), limit=limit, is_all=is_all)


@batches.command("cancel")
@click.argument("ids", nargs=-1, required=True, metavar="BATCH_ID...")
@click.option("--dry-run", is_flag=True, help="Only say what would be cancelled.")
@YES
@pass_session
def cancel_batches(session: Session, ids: tuple[str, ...], *, dry_run: bool, yes: bool) -> None:
    """Cancel what of batches has not ended; what has stays as it is."""
    found = [session.retriever.batches.get(each) for each in ids]
    if dry_run:
        session.output.many(found, BATCH)
        return
    unfinished = sum(each.total - each.ended for each in found)
    if unfinished:
        confirm(f"Cancel {unfinished:,} jobs that have not ended?", yes=yes)
    session.output.many((session.retriever.batches.cancel(each) for each in ids), BATCH)


@batches.command("redrive")
@click.argument("ids", nargs=-1, required=True, metavar="BATCH_ID...")
@pass_session
def redrive_batches(session: Session, ids: tuple[str, ...]) -> None:
    """Send the parked jobs of batches back."""
    session.output.many((session.retriever.batches.redrive(each) for each in ids), OPERATION)
