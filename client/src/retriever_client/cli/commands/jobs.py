"""`retriever jobs`: look at jobs, and decide on them."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, BinaryIO, Final

import click

from retriever_client.cli.commands.bulk import bulk_options, decide_on_many
from retriever_client.cli.commands.options import (
    JOB,
    JOB_FIELDS,
    LABEL,
    WAIT,
    limited,
    page_size,
    show_list,
)
from retriever_client.cli.output import escaped
from retriever_client.cli.parameters import several
from retriever_client.cli.session import Session, SessionGroup, pass_session
from retriever_client.models import Job

_SAMPLES: Final = 5


@click.group(cls=SessionGroup)
def jobs() -> None:
    """Look at jobs, and decide on them."""


_filters: Final = several(
    click.option("--kind", help="Such as check or fetch."),
    click.option("--host", help="Exactly this host."),
    click.option("--url", help="A part of the URL."),
    click.option("--reason", help="Whose last failure had this reason, such as http_503."),
    click.option("--ref", help="Handed in with exactly this ref."),
    click.option("--batch", metavar="ID", help="Of this batch."),
    click.option("--schedule", metavar="ID", help="Made by this schedule."),
    LABEL,
)


@jobs.command(
    "list",
    epilog="""\b
Examples:
  retriever jobs list --state parked --host example.com
  retriever jobs list --label team=docs --all -o csv > jobs.csv
  retriever jobs list --query '[].{id: id, status: result.status}'""",
)
@click.option("--state", help="Such as running, parked or succeeded.")
@_filters
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
    """Show a job; `-o json` has every attempt and the whole result."""
    session.output.one(session.retriever.jobs.get(job_id), JOB_FIELDS)


@jobs.command("watch")
@click.argument("job_id")
@WAIT
@pass_session
def watch_job(session: Session, job_id: str, wait: float | None) -> None:
    """Wait for the end of a job, and show it."""
    session.output.one(session.retriever.jobs.wait(job_id, timeout_seconds=wait), JOB_FIELDS)


@jobs.command("body")
@click.argument("job_id")
@click.option("--to", type=click.File("wb", lazy=True), default="-", help="A file. Default: stdout.")
@pass_session
def write_body(session: Session, job_id: str, to: BinaryIO) -> None:
    """Write what a fetch brought back, as it is."""
    with session.retriever.jobs.body(job_id) as response:
        for chunk in response.iter_bytes():
            to.write(chunk)


@jobs.command("output")
@click.argument("job_id")
@click.option("--stderr", "is_stderr", is_flag=True, help="What it wrote to its stderr.")
@pass_session
def show_output(session: Session, job_id: str, *, is_stderr: bool) -> None:
    """Print what a command or task has written so far; of much the beginning and the end."""
    output = session.retriever.jobs.output(job_id)
    written = output.stderr if is_stderr else output.stdout
    parts = [written.text]
    if written.omitted_bytes:
        parts.append(f"\n... {written.omitted_bytes:,} bytes are left out ...\n")
    parts.append(written.tail)
    click.echo(escaped("".join(parts), keep="\n\t"), nl=False)


def _add_decision(action: str, words: str, which_jobs: str) -> None:
    @click.argument("ids", nargs=-1, metavar="[JOB_ID]...")
    @_filters
    @bulk_options
    @pass_session
    def decide(
        session: Session, /, ids: tuple[str, ...], rate: int | None, dry_run: bool, yes: bool, **which: Any
    ) -> None:
        chosen = {name: value for name, value in which.items() if value}
        if bool(ids) == bool(chosen):
            raise click.UsageError("Name jobs by their ids, or say which by options such as --host.")
        if ids:
            do: Callable[[str], Any] = getattr(session.retriever.jobs, action)
            session.output.many((do(each) for each in ids), JOB)
            return
        operations = session.retriever.operations
        decide_on_many(
            session,
            "Send back" if action == "redrive" else action.capitalize(),
            matching=operations.count(action, **chosen),
            samples=_samples(session, action, chosen),
            begin=lambda: operations.begin(action, rate_per_second=rate, **chosen),
            dry_run=dry_run,
            yes=yes,
        )

    decide.__doc__ = f"""{words}

    By their ids, or all {which_jobs} that match: then what they are is shown first, and you are asked.
    """
    example = f"""\b
Examples:
  retriever jobs {action} 0199aa3e-7c1b-7d4e-9f00-3b1f6c2a9d10
  retriever jobs {action} --host example.com --dry-run"""
    jobs.command(action, epilog=example)(decide)


def _samples(session: Session, action: str, which: dict[str, Any]) -> Iterator[str]:
    found = session.retriever.jobs.list(
        state=None if action == "cancel" else "parked", page_size=100, **which
    )
    open_or_parked = (job for job in islice(found, 1_000) if action != "cancel" or not job.is_ended)
    return map(_sample, islice(open_or_parked, _SAMPLES))


def _sample(job: Job) -> str:
    return "  ".join(filter(None, (job.id, job.kind, job.state, job.reason, job.url)))


_add_decision("cancel", "Cancel jobs.", "unfinished jobs")
_add_decision("redrive", "Send parked jobs back.", "parked jobs")
_add_decision("discard", "End parked jobs for good.", "parked jobs")
