"""The feed of ends: the places that jobs and batches have in it, and what a reader wants of it. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self
from uuid import UUID

from producer.records import BatchRecord, JobRecord
from shared.states import JobState

PLACE_PATTERN: Final = r"^[0-9]{1,18}(-[jb]-[0-9a-f]{32})?$"
_PLACE = re.compile(r"(?P<number>[0-9]{1,18})(?:-(?P<sort>[jb])-(?P<id>[0-9a-f]{32}))?")
_LAST_ID = UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where an end stands in the feed; places are in the order in which the ends became visible.

    Attributes:
        number: Of the transaction that recorded it: each that commits later has a greater one.
        is_batch: The ends of batches come behind those of the jobs that completed them.
        id: Of the job or batch.
    """

    number: int
    is_batch: bool = True
    id: UUID = _LAST_ID

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the place that a text names; a number alone is the place behind all that have it.

        Raises:
            ValueError: it names none.
        """
        if (match := _PLACE.fullmatch(text)) is None:
            raise ValueError("It is the place of no event")
        number, sort, id_ = match["number"], match["sort"], match["id"]
        return cls(int(number)) if sort is None else cls(int(number), sort == "b", UUID(id_))

    def __str__(self) -> str:
        if self == Place(self.number):
            return str(self.number)
        return f"{self.number}-{'b' if self.is_batch else 'j'}-{self.id.hex}"


@dataclass(frozen=True, slots=True)
class FeedFilter:
    """Which ends to tell of; every field that is set must match. The states are those of jobs."""

    batch_id: UUID | None = None
    kind: str | None = None
    states: Sequence[JobState] = ()
    labels: Sequence[tuple[str, str]] = field(default=())


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Some ends in the order of their places, and the place to go on behind.

    It may have none and there may be more all the same, unless `is_last`: then the feed ends at `following`.
    """

    ends: Sequence[tuple[Place, JobRecord | BatchRecord]]
    following: Place
    is_last: bool
