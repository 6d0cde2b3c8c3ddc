"""The sorts of job that are measured, and who does them."""

from dataclasses import dataclass
from enum import StrEnum


class Work(StrEnum):
    """What a job is: a GET of a target that answers at once, of one that takes 50 ms, or nothing."""

    FAST = "check, fast target"
    SLOW = "check, 50 ms target"
    NOOP = "no-op"


class Role(StrEnum):
    """What a contender is there for: `floor` is libraries with nothing around them, no system to choose."""

    OURS = "ours"
    PEER = "peer"
    FLOOR = "floor"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender finds what it needs; `url` is empty when there is nothing to ask."""

    amqp_url: str
    work: Work
    url: str
