"""`retriever jobs`: look at jobs, and decide on them."""

from collections.abc import Callable
from typing import Any

import click

from retriever_client.cli.commands.options import JOB, JOB_FIELDS, LABEL, WAIT, limited, page_size, show_list
from retriever_client.cli.session import Session, SessionGroup, pass_session


@click.group(cls=SessionGroup)
def jobs() -> None:
    """Look at jobs, and decide on them."""


@jobs.command("list")
@click.option("--state")
@click.option("--kind")
@click.option("--host")
@click.option("--url", help="A part of the URL.")
@click.option("--reason")
@click.option("--ref")
@click.option("--batch")
@LABEL
@limited
@pass_session
def list_jobs(session: Session, /, limit: int, is_all: bool, **which: Any) -> None:
    """List jobs that match, newest first."""
    found = session.retriever.jobs.list(page_size=page_size(limit, is_all=is_all), **which)
    show_list(session, found, JOB, limit=limit, is_all=is_all)


@jobs.command("show")
@click.argument("job_id")
@pass_session
def show_job(session: Session, job_id: str) -> None:
    """Show a job."""
    session.output.one(session.retriever.jobs.get(job_id), JOB_FIELDS)


@jobs.command("watch")
@click.argument("job_id")
@WAIT
@pass_session
def watch_job(session: Session, job_id: str, wait: float | None) -> None:
    """Wait for the end of a job, and show it."""
    session.output.one(session.retriever.jobs.wait(job_id, timeout_seconds=wait), JOB_FIELDS)


def _add_decision(action: str, words: str) -> None:
    @click.argument("ids", nargs=-1, required=True, metavar="JOB_ID...")
    @pass_session
    def decide(session: Session, ids: tuple[str, ...]) -> None:
        do: Callable[[str], Any] = getattr(session.retriever.jobs, action)
        session.output.many((do(each) for each in ids), JOB)

    decide.__doc__ = words
    jobs.command(action)(decide)


_add_decision("cancel", "Cancel jobs.")
_add_decision("redrive", "Send parked jobs back.")
_add_decision("discard", "End parked jobs for good.")
