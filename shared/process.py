"""What every process of ours sets up before it begins."""

import gc

from shared.broker.reader import choose_reader
from shared.logs import configure_logging
from shared.settings import Settings

# How often the middle and the old generation of objects are looked at, in collections of the one before.
_OLDER_EVERY = (20, 50)


def prepare_process(settings: Settings, *, process: str, collect_every: int = 5_000) -> None:
    """Configure logs, the way of AMQP frames, and the garbage collector of this process.

    Args:
        collect_every: Objects that came, less those that went, between two looks at the youngest for cycles.
    """
    configure_logging(settings, process=process)
    choose_reader(plain=settings.amqp_plain)
    _collect_seldom(collect_every)


def _collect_seldom(collect_every: int) -> None:
    # Hundreds of jobs in hand are thousands of objects that come and go. Python looks for cycles whenever 700
    # more have come than gone, and at all of our imports now and then: a fifth of the time of a worker. What
    # has been imported stays, so it is not looked at again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(collect_every, *_OLDER_EVERY)
