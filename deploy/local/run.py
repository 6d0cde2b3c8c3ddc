"""`make run`: serve on this machine in the foreground until Ctrl-C, keeping all data in `.run/`.

Settings come from the environment, and what it does not set from `.env`.
"""

import os
import sys

from dotenv import dotenv_values

from deploy.local.errors import LocalError
from deploy.local.stack import ROOT, Stack, open_stack

DEFAULTS = {"RETRIEVER_API_PORT": "8080", "RETRIEVER_LOG_FORMAT": "console"}


def main() -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit status."""
    written = {name: value for name, value in dotenv_values(ROOT / ".env").items() if value}
    try:
        with open_stack(ROOT / ".run", DEFAULTS | written | dict(os.environ)) as stack:
            _announce(stack)
            return stack.wait()
    except KeyboardInterrupt:
        return 0
    except LocalError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1


def _announce(stack: Stack) -> None:
    console = stack.management_url or "(set RETRIEVER_MANAGEMENT_URL to see it here)"
    print(
        f"\n  API              {stack.api_url}"
        f"\n  Swagger UI       {stack.api_url}/ui/"
        f"\n  RabbitMQ console {console}  ({stack.broker.kind})"
        "\n  Ctrl-C stops everything; data stay in .run/\n",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
