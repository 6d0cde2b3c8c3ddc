"""Running a command of the producer as a person does."""

import subprocess
import sys
from pathlib import Path

from tests.support.environment import clean_environment

_ROOT = Path(__file__).resolve().parents[2]


def run_producer(
    database_url: str, amqp_url: str, *arguments: str, timeout_seconds: int = 10
) -> subprocess.CompletedProcess[str]:
    """Run `python -m producer` with these arguments, and return how it ended and what it said."""
    settings = {
        "RETRIEVER_AMQP_URL": amqp_url,
        "RETRIEVER_DATABASE_URL": database_url,
        "RETRIEVER_PUBLISH_TIMEOUT_SECONDS": str(timeout_seconds),
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "producer", *arguments],
        cwd=_ROOT,
        env={**clean_environment(), **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
