"""`make run`: serve on this machine in the foreground until Ctrl-C, keeping all data in `.run/`.

Settings come from the environment, and what it does not set from `.env`.
"""

import os
import sys
from pathlib import Path

import click
from dotenv import dotenv_values

from deploy.local.errors import LocalError
from deploy.local.stack import ROOT, Stack, open_stack
from shared.log_lines import printable_lines

DEFAULTS = {"RETRIEVER_API_PORT": "8080", "RETRIEVER_LOG_FORMAT": "console"}


@click.command()
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=ROOT / ".run", help="Where the data stay."
)
@click.option("--with-parent", is_flag=True, help="Stop when the process that started this one ends.")
def main(*, data_dir: Path, with_parent: bool) -> None:
    """Serve Retriever on this machine until Ctrl-C."""
    sys.exit(serve(data_dir, parent=os.getppid() if with_parent else None))


def serve(data_dir: Path, *, parent: int | None = None) -> int:
    """Serve until Ctrl-C, SIGTERM, SIGHUP, SIGQUIT, or the end of a parent; return the exit status."""
    written = {name: value for name, value in dotenv_values(ROOT / ".env").items() if value}
    try:
        with open_stack(data_dir, DEFAULTS | written | dict(os.environ)) as stack:
            print("", *announcement(stack, data_dir), "", sep="\n", flush=True)
            return stack.wait(is_wanted=lambda: parent is None or os.getppid() == parent)
    except KeyboardInterrupt:
        return 0
    except LocalError as error:
        print(f"make run: {printable_lines(str(error))}", file=sys.stderr)
        return 1


def announcement(stack: Stack, data_dir: Path) -> list[str]:
    """Return the lines that say where everything is, with the passwords of what we started ourselves."""
    facts = {
        "API": stack.api_url,
        "dashboard": f"{stack.api_url}/dashboard/",
        "Swagger UI": f"{stack.api_url}/ui/",
        "RabbitMQ console": stack.console(),
        "RabbitMQ": stack.broker.amqp_url if stack.broker.is_ours else "the one of RETRIEVER_AMQP_URL",
        "Store": stack.database_url if stack.database_url.startswith("sqlite:") else "RETRIEVER_DATABASE_URL",
    }
    lines = [f"  {name:16} {value}" for name, value in facts.items()]
    if not stack.has_contact:
        lines.append(
            "  Before you visit sites of others, set RETRIEVER_CONTACT_URL, so that they can reach you."
        )
    return [*lines, f"  Ctrl-C stops everything; data stay in {data_dir}/"]


if __name__ == "__main__":
    main()
