"""The command `retriever`: what all commands share, and which there are."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any, Final

import click

from retriever_client.cli.configuration import Configuration, check_names, find_configuration
from retriever_client.cli.exit_codes import ExitCode, code_of
from retriever_client.cli.output import FORMATS, Output, colour_choice, say
from retriever_client.cli.session import LONGEST_SUMMARY, Session, SessionCommand
from retriever_client.errors import ApiError, RetrieverError

# Name, where it is, and in which part of the help. They are loaded when they are asked for.
_COMMANDS: Final = {
    "check": ("commands.check:check", "Links"),
    "links": ("commands.check:list_links", "Links"),
    "fetch": ("commands.work:fetch", "Work"),
    "run": ("commands.work:run_command", "Work"),
    "jobs": ("commands.jobs:jobs", "Work"),
    "batches": ("commands.batches:batches", "Work"),
    "tasks": ("commands.tasks:tasks", "Work"),
    "schedules": ("commands.schedules:schedules", "Work"),
    "parked": ("commands.parked:parked", "Work"),
    "operations": ("commands.operations:operations", "Work"),
    "tail": ("commands.watching:tail", "Look"),
    "stats": ("commands.watching:stats", "Look"),
    "open": ("commands.watching:open_page", "Look"),
    "audit": ("commands.watching:audit", "Look"),
    "doctor": ("commands.doctor:doctor", "Look"),
    "kinds": ("commands.kinds:kinds", "Run the service"),
    "lanes": ("commands.kinds:lanes", "Run the service"),
    "hosts": ("commands.hosts:hosts", "Run the service"),
    "limits": ("commands.limits:limits", "Run the service"),
    "keys": ("commands.keys:keys", "Run the service"),
    "secrets": ("commands.secrets:secrets", "Run the service"),
    "api": ("commands.api:api", "This command"),
    "config": ("commands.config:config", "This command"),
    "completion": ("commands.completion:completion", "This command"),
}


class _Commands(click.Group):
    """Loads a command when it is called, and turns errors into words and exit codes: no trace-backs."""

    command_class = SessionCommand

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [*_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(importlib.import_module(f"retriever_client.cli.{module}"), name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, part by part."""
        parts: dict[str, list[tuple[str, str]]] = {}
        for name, (_, part) in _COMMANDS.items():
            command = self.get_command(ctx, name)
            parts.setdefault(part, []).append(
                (name, command.get_short_help_str(LONGEST_SUMMARY) if command else "")
            )
        for part, rows in parts.items():
            with formatter.section(part):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(ExitCode.INTERRUPTED)
        except RetrieverError as error:
            say(f"retriever: {error}")
            if isinstance(error, ApiError):
                for loc, msg in error.problem.errors:
                    say(f"  {loc}: {msg}")
            ctx.exit(code_of(error))


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option("--url", help="Of the service. Default: RETRIEVER_URL, retriever.toml, this machine.")
@click.option("-o", "--output", type=click.Choice(FORMATS), help="Default: table.")
@click.option("--query", metavar="JMESPATH", help="Print this of the documents, such as '[].id'.")
@click.option("--timeout", type=click.FloatRange(min=0.1), help="Seconds for each step of a request.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@click.version_option(package_name="retriever-client")
@click.pass_context
def retriever(
    ctx: click.Context,
    *,
    url: str | None,
    output: str | None,
    query: str | None,
    timeout: float | None,
    color: str,
) -> None:
    """Hand work to Retriever, and see what became of it.

    The key comes from the file RETRIEVER_KEY_FILE or from RETRIEVER_KEY, never from an option.

    Exit codes: 0 good, 1 found what --fail-on names, 2 usage or nothing such there, 3 unreachable, 4 not
    allowed, 5 not finished in time, 130 interrupted.
    """
    ctx.color = colour_choice(color)
    shown = Output(output or "table")
    if query is not None:
        shown.set_query(query)
    if ctx.obj is not None:
        # A client, from a test.
        ctx.obj = Session(Configuration(), shown, client=ctx.obj)
        return
    said = find_configuration(Path.cwd())
    ctx.obj = Session(said, shown, url, timeout)
    ctx.call_on_close(ctx.obj.close)
    if said.check and ctx.invoked_subcommand in {"check", "config"}:
        ctx.default_map = {"check": _defaults_of_check(ctx, said)}


def _defaults_of_check(ctx: click.Context, said: Configuration) -> dict[str, Any]:
    """Return the options of `check` that a file has, by the names of its parameters."""
    command = retriever.get_command(ctx, "check")
    assert command is not None
    names = {
        option.removeprefix("--"): str(each.name)
        for each in command.params
        for option in each.opts
        if option.startswith("--")
    }
    check_names(said.path, "check.", said.check, names)
    return {names[name]: value for name, value in said.check.items()}


def main() -> None:
    """Run the command that the arguments say."""
    if "_RETRIEVER_COMPLETE" not in os.environ and hasattr(sys.stdout, "reconfigure"):
        # A terminal of another encoding gets what it can show, not an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(retriever.main(prog_name="retriever", standalone_mode=True))
    except Exception as error:
        if os.environ.get("RETRIEVER_TRACEBACK"):
            raise
        say(f"retriever: a fault of this program: {type(error).__name__}: {error}")
        say("RETRIEVER_TRACEBACK=1 shows where it is. Please report it.")
        sys.exit(ExitCode.FAULT)


if __name__ == "__main__":
    main()
