"""The commands, and how they end: the same exit code for the same reason, whatever is printed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from retriever_client import ApiError, Retriever, RetrieverError
from retriever_client._core import find_key, find_url
from retriever_client.cli.configuration import Configuration, find_configuration
from retriever_client.cli.exit_codes import ExitCode, code_of
from retriever_client.cli.output import FORMATS, say, show_many, show_one
from retriever_client.cli.session import Session, pass_session
from retriever_client.models import Batch, Shown

_JOB: Final = ("id", "kind", "state", "verdict", "reason", "url", "created_at")
_JOB_FIELDS: Final = (*_JOB, "finished_at", "attempt", "batch_id", "labels", "ref", "explanation")
_BATCH: Final = ("id", "kind", "total", "ended", "counts", "created_at", "finished_at")
_OPERATION: Final = ("id", "action", "state", "total", "done", "skipped", "created_at")


class _Commands(click.Group):
    """Turns errors into words and exit codes: nobody wants to see a trace-back."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(ExitCode.INTERRUPTED)
        except RetrieverError as error:
            say(f"retriever: {error}")
            if isinstance(error, ApiError):
                for loc, msg in error.problem.errors:
                    say(f"  {loc}: {msg}")
            ctx.exit(code_of(error))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", help="Of the service. Default: RETRIEVER_URL, retriever.toml, this machine.")
@click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--timeout", type=click.FloatRange(min=0.1), help="Seconds for each step of a request.")
@click.version_option(package_name="retriever-client")
@click.pass_context
def retriever(ctx: click.Context, url: str | None, output: str, timeout: float | None) -> None:
    """Hand work to Retriever, and see what became of it.

    The key comes from the file RETRIEVER_KEY_FILE or from RETRIEVER_KEY, never from an option.

    Exit codes: 0 good, 1 found what --fail-on names, 2 usage or nothing such there, 3 unreachable,
    4 not allowed, 5 not finished in time, 130 interrupted.
    """
    if isinstance(ctx.obj, Retriever):
        # A test's.
        ctx.obj = Session(ctx.obj, Configuration(), output)
        return
    said = find_configuration(Path.cwd())
    client = Retriever(
        url or _environment_url() or said.url, timeout_seconds=timeout or said.timeout_seconds or 30.0
    )
    ctx.obj = Session(ctx.with_resource(client), said, output)


def _environment_url() -> str | None:
    import os  # noqa: PLC0415 - for this alone

    return os.environ.get("RETRIEVER_URL") or None


@retriever.command()
@click.argument("method", type=click.Choice(["GET", "POST", "PUT", "DELETE"], case_sensitive=False))
@click.argument("path")
@click.option("-f", "--field", multiple=True, metavar="NAME=VALUE", help="Of the query. May be repeated.")
@click.option("--input", "body", type=click.File("rb"), help="The JSON body; - reads it from stdin.")
@pass_session
def api(session: Session, method: str, path: str, field: tuple[str, ...], body: Any) -> None:
    """Send any request, with your key and what is retried, and print the answer."""
    params = dict(each.partition("=")[::2] for each in field)
    document = None
    if body is not None:
        try:
            document = json.loads(body.read())
        except ValueError as error:
            raise click.UsageError(f"The body is not JSON: {error}") from None
    answer = session.retriever.request(method.upper(), f"/{path.lstrip('/')}", params=params, json=document)
    click.echo(answer.text.rstrip("\n"))


@retriever.group()
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
@click.option("--label", multiple=True, metavar="NAME=VALUE", help="May be repeated.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@pass_session
def list_jobs(session: Session, /, limit: int, label: tuple[str, ...], **which: str | None) -> None:
    """List jobs that match, newest first."""
    labels = dict(each.partition("=")[::2] for each in label)
    found = session.retriever.jobs.list(labels=labels, page_size=min(limit, 500), **which)  # type: ignore[arg-type]
    shown = show_many((each for each, _ in zip(found, range(limit), strict=False)), _JOB, session.output)
    if shown == limit:
        say(f"The first {limit}; --limit shows more.")


@jobs.command("show")
@click.argument("job_id")
@pass_session
def show_job(session: Session, job_id: str) -> None:
    """Show a job."""
    show_one(session.retriever.jobs.get(job_id), _JOB_FIELDS, session.output)


@jobs.command("watch")
@click.argument("job_id")
@click.option("--wait", type=click.FloatRange(min=0), help="Seconds at most. Default: for ever.")
@pass_session
def watch_job(session: Session, job_id: str, wait: float | None) -> None:
    """Wait for the end of a job, and show it."""
    show_one(session.retriever.jobs.wait(job_id, timeout_seconds=wait), _JOB_FIELDS, session.output)


@retriever.group()
def batches() -> None:
    """Look at batches, and decide on them."""


@batches.command("list")
@click.option("--label", multiple=True, metavar="NAME=VALUE", help="May be repeated.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@pass_session
def list_batches(session: Session, label: tuple[str, ...], limit: int) -> None:
    """List batches, newest first."""
    labels = dict(each.partition("=")[::2] for each in label)
    found = session.retriever.batches.list(labels=labels, page_size=min(limit, 500))
    show_many((each for each, _ in zip(found, range(limit), strict=False)), _BATCH, session.output)


@batches.command("show")
@click.argument("batch_id")
@pass_session
def show_batch(session: Session, batch_id: str) -> None:
    """Show a batch."""
    show_one(session.retriever.batches.get(batch_id), _BATCH, session.output)


@batches.command("watch")
@click.argument("batch_id")
@click.option("--wait", type=click.FloatRange(min=0), help="Seconds at most. Default: for ever.")
@pass_session
def watch_batch(session: Session, batch_id: str, wait: float | None) -> None:
    """Wait until all jobs of a batch have ended, and show it; progress goes to stderr."""

    def tell(batch: Batch) -> None:
        say(f"{batch.ended} of {batch.total} ended, {batch.rate_per_second:g} a second")

    done = session.retriever.batches.wait(batch_id, timeout_seconds=wait, on_progress=tell)
    show_one(done, _BATCH, session.output)


@batches.command("results")
@click.argument("batch_id")
@click.option("--follow", is_flag=True, help="As they end, until all have.")
@pass_session
def show_results(session: Session, batch_id: str, *, follow: bool) -> None:
    """Show what became of the jobs of a batch."""
    found = session.retriever.batches.results(batch_id, as_they_end=follow)
    show_many(found, _JOB, session.output)


@retriever.group()
def config() -> None:
    """What this command has been told, and by whom."""


@config.command("show")
@pass_session
def show_config(session: Session) -> None:
    """Show the settings in force; a key is shown by its beginning alone."""
    key = find_key(None)
    click.echo(f"url      {find_url(session.retriever.url)}")
    click.echo(f"key      {f'{key[:8]}...' if key else '-'}")
    click.echo(f"file     {session.configuration.path or '-'}")


@config.command("path")
@pass_session
def show_path(session: Session) -> None:
    """Print the path of the file that counts here."""
    if session.configuration.path is None:
        raise click.UsageError("There is no retriever.toml, and no [tool.retriever], from here upwards.")
    click.echo(session.configuration.path)


def _add_decision(group: click.Group, noun: str, action: str, words: str) -> None:
    """Add a command that does something with each of some things."""
    of_jobs = noun == "job"

    @click.argument("ids", nargs=-1, required=True, metavar=f"{noun.upper()}_ID...")
    @pass_session
    def decide(session: Session, ids: tuple[str, ...]) -> None:
        resource = session.retriever.jobs if of_jobs else session.retriever.batches
        do: Callable[[str], Shown] = getattr(resource, action)
        columns = _JOB if of_jobs else _OPERATION if action == "redrive" else _BATCH
        show_many((do(each) for each in ids), columns, session.output)

    decide.__doc__ = words
    group.command(action)(decide)


_add_decision(jobs, "job", "cancel", "Cancel jobs.")
_add_decision(jobs, "job", "redrive", "Send parked jobs back.")
_add_decision(jobs, "job", "discard", "End parked jobs for good.")
_add_decision(batches, "batch", "cancel", "Cancel what of batches has not ended.")
_add_decision(batches, "batch", "redrive", "Send the parked jobs of batches back.")


def main() -> None:
    """Run the command that the arguments say."""
    sys.exit(retriever.main(prog_name="retriever", standalone_mode=True))
