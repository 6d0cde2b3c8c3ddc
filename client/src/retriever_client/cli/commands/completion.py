"""`retriever completion`: what shells complete."""

from typing import Final

import click
from click.shell_completion import get_completion_class

_HOW: Final = """\b
To use it:
  bash   retriever completion bash > ~/.local/share/bash-completion/completions/retriever
  zsh    retriever completion zsh > "${fpath[1]}/_retriever"
  fish   retriever completion fish > ~/.config/fish/completions/retriever.fish"""


@click.command(epilog=_HOW)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script with which a shell completes commands and options."""
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"There is no completion for {shell}.")
    root = ctx.find_root()
    click.echo(made(root.command, {}, "retriever", "_RETRIEVER_COMPLETE").source())
