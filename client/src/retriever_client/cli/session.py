"""What every command is given."""

from dataclasses import dataclass

import click

from retriever_client import Retriever
from retriever_client.cli.configuration import Configuration


@dataclass(frozen=True, slots=True)
class Session:
    """What every command needs."""

    retriever: Retriever
    configuration: Configuration
    output: str


pass_session = click.make_pass_decorator(Session)
