"""`retriever fetch` and `retriever run`: one job, what it brought, and an exit code."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from retriever_client import NotFinished
from retriever_client.cli.exit_codes import ExitCode
from retriever_client.cli.output import say
from retriever_client.cli.parameters import Duration, Pair, several
from retriever_client.cli.session import Session, SessionCommand, pass_session
from retriever_client.cli.watching import Interrupted, interruptible
from retriever_client.models import Job

_FIELDS: Final = (
    "id",
    "kind",
    "state",
    "reason",
    "url",
    "created_at",
    "finished_at",
    "attempt",
    "explanation",
)
_DOCUMENTS: Final = frozenset({"json", "ndjson"})
_submitted = several(
    click.option("--attempts", type=click.IntRange(min=1), help="How often it is tried that may recover."),
    click.option("--wait", type=Duration(), help="For how long at most; then the exit code is 5."),
    click.option("--detach", is_flag=True, help="Print the id of the job, and do not wait."),
    click.option(
        "--detach-on-interrupt", is_flag=True, help="Ctrl-C cancels nothing where nobody can be asked."
    ),
)


@click.command(cls=SessionCommand)
@click.argument("url")
@click.option("--extract", metavar="JMESPATH", help="What to pick out of the JSON that comes.")
@click.option("--accept", multiple=True, metavar="TYPE", help="Media types that are wanted.")
@click.option("--header", "headers", type=Pair(":"), multiple=True, metavar="NAME:VALUE", help="Sent along.")
@click.option(
    "--arg", "args", type=Pair("="), multiple=True, metavar="NAME=JSON", help="Any argument of the kind."
)
@click.option(
    "--to", type=click.Path(path_type=Path, dir_okay=False), help="A file for the body. Default: stdout."
)
@_submitted
@pass_session
@click.pass_context
def fetch(
    ctx: click.Context,
    session: Session,
    /,
    *,
    url: str,
    extract: str | None,
    accept: tuple[str, ...],
    headers: tuple[tuple[str, str], ...],
    args: tuple[tuple[str, str], ...],
    to: Path | None,
    attempts: int | None,
    wait: float | None,
    detach: bool,
    detach_on_interrupt: bool,
) -> None:
    """Fetch a URL, as often as it takes, and print what came: the body, or what --extract picks out of it."""
    given: dict[str, Any] = {"url": url, "extract": extract, "accept": list(accept), "headers": dict(headers)}
    wanted = {name: value for name, value in given.items() if value} | _arguments(args)
    job = _submit(session, "fetch", wanted, attempts)
    job = _ended(ctx, session, job, wait, detach=detach, detach_on_interrupt=detach_on_interrupt)
    _insist_on_success(ctx, session, job)
    if session.output.format in _DOCUMENTS or session.output.query:
        session.output.one(job, _FIELDS)
        return
    if to is None:
        _write_fetched(session, job, sys.stdout.buffer)
        return
    with to.open("wb") as file:
        _write_fetched(session, job, file)
    say(f"{to}: {to.stat().st_size:,} bytes.")


@click.command(
    "run",
    cls=SessionCommand,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("argv", nargs=-1, required=True, metavar="[--] PROGRAM [ARGUMENT]...")
@click.option(
    "--shell", is_flag=True, help="PROGRAM is a line for the shell, where the operator allows that."
)
@click.option(
    "--stdin", type=click.File("r", encoding="utf-8"), help="What the program reads; - for our stdin."
)
@click.option(
    "--env", "variables", type=Pair("="), multiple=True, metavar="NAME=VALUE", help="Of its environment."
)
@click.option("--limit", type=Duration(), help="How long it may take, such as 5m.")
@click.option(
    "--arg", "args", type=Pair("="), multiple=True, metavar="NAME=JSON", help="Any argument of the kind."
)
@_submitted
@pass_session
@click.pass_context
def run_command(
    ctx: click.Context,
    session: Session,
    /,
    *,
    argv: tuple[str, ...],
    stdin: Any,
    variables: tuple[tuple[str, str], ...],
    limit: float | None,
    args: tuple[tuple[str, str], ...],
    attempts: int | None,
    wait: float | None,
    shell: bool,
    detach: bool,
    detach_on_interrupt: bool,
) -> None:
    """Run a program on a worker that may, and print what it wrote. The exit code is 1 when it failed."""
    given: dict[str, Any] = {
        "argv": None if shell else list(argv),
        "shell": " ".join(argv) if shell else None,
        "stdin": stdin.read() if stdin else None,
        "env": dict(variables),
        "timeout_seconds": limit,
    }
    wanted = {name: value for name, value in given.items() if value} | _arguments(args)
    job = _submit(session, "command", wanted, attempts)
    job = _ended(ctx, session, job, wait, detach=detach, detach_on_interrupt=detach_on_interrupt)
    if session.output.format in _DOCUMENTS or session.output.query:
        session.output.one(job, _FIELDS)
    elif job.result:
        _write_text(job.result.get("stdout"), is_error=False)
        _write_text(job.result.get("stderr"), is_error=True)
    _insist_on_success(ctx, session, job)


def _submit(session: Session, kind: str, args: Mapping[str, Any], attempts: int | None) -> Job:
    retry = None if attempts is None else {"max_attempts": attempts}
    job = session.retriever.jobs.submit(kind, args, retry=retry)
    say(f"Job {job.id} at {session.retriever.url}.")
    return job


def _arguments(args: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Return arguments as JSON says them, or as text where it is none."""
    found: dict[str, Any] = {}
    for name, text in args:
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _ended(
    ctx: click.Context,
    session: Session,
    job: Job,
    wait: float | None,
    *,
    detach: bool,
    detach_on_interrupt: bool,
) -> Job:
    """Return a job when it has ended; ends the command when it has not in time, or is not waited for."""
    come_back = f"To come back: retriever jobs watch {job.id}"
    if detach:
        click.echo(job.id)
        say(come_back)
        ctx.exit(ExitCode.GOOD)
    jobs = session.retriever.jobs
    try:
        return interruptible(
            lambda: jobs.wait(job, timeout_seconds=wait),
            lambda: jobs.cancel(job),
            come_back,
            detach_on_interrupt=detach_on_interrupt,
        )
    except Interrupted:
        ctx.exit(ExitCode.INTERRUPTED)
    except NotFinished as error:
        say(f"{error} {come_back}")
        ctx.exit(ExitCode.UNFINISHED)


def _insist_on_success(ctx: click.Context, session: Session, job: Job) -> None:
    if job.state == "succeeded":
        return
    say(f"The job is {job.state}: {job.reason or '-'}. {job.explanation or ''}".rstrip())
    if job.state == "parked":
        say(f"To try it again: retriever jobs redrive {job.id}")
    ctx.exit(ExitCode.FOUND)


def _write_fetched(session: Session, job: Job, out: BinaryIO) -> None:
    result = job.result or {}
    if job.args.get("pages"):
        for item in session.retriever.jobs.items(job):
            out.write(json.dumps(item).encode() + b"\n")
    elif job.args.get("extract"):
        out.write(json.dumps(result.get("data"), indent=2).encode() + b"\n")
    else:
        with session.retriever.jobs.body(job) as answer:
            for piece in answer.iter_bytes():
                out.write(piece)
    out.flush()


def _write_text(written: Any, *, is_error: bool) -> None:
    """Write what a program wrote, as far as it was kept."""
    if not isinstance(written, Mapping):
        return
    text = str(written.get("text", ""))
    click.echo(text, nl=False, err=is_error)
    if omitted := written.get("omitted_bytes"):
        say(f"\n[{omitted:,} bytes are not kept]")
        click.echo(str(written.get("tail", "")), nl=False, err=is_error)
