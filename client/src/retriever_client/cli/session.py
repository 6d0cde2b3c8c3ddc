"""What every command needs: the client, what files say, and what is wanted of the output."""

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from retriever_client.cli.configuration import Configuration
from retriever_client.cli.output import FORMATS, Output

if TYPE_CHECKING:
    from retriever_client import Retriever


@dataclass(slots=True)
class Session:
    """What every command needs.

    Attributes:
        output: In which format, and what of it.
        url: What `--url` says.
        timeout_seconds: What `--timeout` says.
        client: The client, once there is one.
    """

    configuration: Configuration
    output: Output
    url: str | None = None
    timeout_seconds: float | None = None
    client: "Retriever | None" = None
    _opened: ExitStack = field(default_factory=ExitStack)

    @property
    def retriever(self) -> "Retriever":
        """The client, made when it is first asked for: what works offline needs no key."""
        if self.client is None:
            # It takes longer to load than the rest.
            from retriever_client import Retriever  # noqa: PLC0415

            url, said = self.where_from()["url"][0], self.configuration
            seconds = self.timeout_seconds or said.timeout_seconds or 30.0
            self.client = self._opened.enter_context(Retriever(url, timeout_seconds=seconds))
        return self.client

    def where_from(self) -> dict[str, tuple[str | None, str]]:
        """Return what is in force, and who says so; the nearest to the command counts."""
        said = self.configuration
        file = str(said.path)
        key_file, key = os.environ.get("RETRIEVER_KEY_FILE"), os.environ.get("RETRIEVER_KEY")
        return {
            "url": _first(
                (self.url, "--url"),
                (os.environ.get("RETRIEVER_URL"), "RETRIEVER_URL"),
                (said.url, file),
                ("http://127.0.0.1:8080", "default"),
            ),
            "timeout_seconds": _first(
                (_text(self.timeout_seconds), "--timeout"),
                (_text(said.timeout_seconds), file),
                ("30", "default"),
            ),
            "key": _first(
                (key_file and f"in {key_file}", "RETRIEVER_KEY_FILE"),
                (key and f"{key[:8]}...", "RETRIEVER_KEY"),
                (None, "none"),
            ),
            "file": (None if said.path is None else file, "nearest from here upwards"),
        }

    def close(self) -> None:
        """Close the client, if it was made here."""
        self._opened.close()


pass_session = click.make_pass_decorator(Session)


LONGEST_SUMMARY: Final = 200
"""What a command says of itself in a list of commands: a whole sentence, on two lines where it must."""


class SessionCommand(click.Command):
    """A command that takes the options of the output behind its name too, where people write them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make a command, with the options that the group has too."""
        super().__init__(*args, **kwargs)
        own = {each.name for each in self.params}
        self.params += [each for each in _output_options() if each.name not in own]

    def get_short_help_str(self, limit: int = LONGEST_SUMMARY) -> str:
        """Return the first sentence of its help, whole."""
        return super().get_short_help_str(max(limit, LONGEST_SUMMARY))


class SessionGroup(click.Group):
    """A group of such commands."""

    command_class = SessionCommand
    group_class = type


def _output_options() -> list[click.Option]:
    return [
        click.Option(
            ["-o", "--output", "output_format"],
            type=click.Choice(FORMATS),
            expose_value=False,
            callback=_set_format,
            help="Default: table.",
        ),
        click.Option(
            ["--query"],
            metavar="JMESPATH",
            expose_value=False,
            callback=_set_query,
            help="Print this of the documents, such as '[].id'.",
        ),
    ]


def _set_format(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None and isinstance(ctx.obj, Session):
        ctx.obj.output.format = value


def _set_query(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None and isinstance(ctx.obj, Session):
        ctx.obj.output.set_query(value)


def _first(*said: tuple[str | None, str]) -> tuple[str | None, str]:
    return next((each for each in said if each[0]), said[-1])


def _text(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:g}"
