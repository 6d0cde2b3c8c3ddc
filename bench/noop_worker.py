"""Retriever's worker with a `check` that asks nobody: the no-op job that no kind offers.

`python -m bench.noop_worker worker --kinds check` is `python -m consumer worker --kinds check` in all else:
the message is read and validated, cancellations and the host's limits are looked at, the attempt runs under
its time limit, its report is published and confirmed, and only then the delivery is acked. The report is
smaller than a real one by the hops, of which there are none.
"""

from unittest.mock import patch

from consumer.__main__ import main
from consumer.handlers.registry import HANDLERS, handler_of
from consumer.http.client import Client
from shared.kinds.check import CheckArgs, CheckResult, Verdict
from shared.outcomes import Outcome, Succeeded


async def look_at_nothing(args: CheckArgs, _client: Client) -> Outcome:
    """Return at once what a good answer would come to."""
    result = CheckResult(verdict=Verdict.OK, reason="ok", final_url=args.url, hops=[], total_seconds=0.0)
    return Succeeded(result.model_dump(mode="json"))


if __name__ == "__main__":
    # The worker is built from this table; a seam in the product for a measurement alone would be too much.
    with patch("consumer.bootstrap.HANDLERS", {**HANDLERS, "check": handler_of(CheckArgs, look_at_nothing)}):
        main()
