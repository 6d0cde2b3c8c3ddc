"""What every process of ours sets up before it begins."""

import gc

from shared.broker.reader import choose_reader
from shared.logs import configure_logging
from shared.settings import Settings

# Objects that came, less those that went, between two looks at the youngest; then of each older generation.
_COLLECT_EVERY = (50_000, 20, 50)


def prepare_process(settings: Settings, *, process: str) -> None:
    """Configure logs, the way of AMQP frames, and the garbage collector of this process."""
    configure_logging(settings, process=process)
    choose_reader(plain=settings.amqp_plain)
    _collect_seldom()


def _collect_seldom() -> None:
    # Hundreds of jobs in hand are thousands of objects that come and go. Python looks for cycles whenever 700
    # more have come than gone, and at all of our imports now and then: a fifth of the time of a worker. What
    # has been imported stays, so it is not looked at again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_EVERY)
