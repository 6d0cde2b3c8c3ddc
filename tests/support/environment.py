"""The environment of the processes that tests start: of ours, without settings of the product."""

import os

# The ways below libraries' public interfaces have a plain twin each, and whoever runs the suite chooses.
PASSED_THROUGH = frozenset({"RETRIEVER_AMQP_PLAIN", "RETRIEVER_HTTP_PLAIN"})


def clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of the product, but for the plain ways."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_THROUGH or not name.startswith("RETRIEVER_")
    }
