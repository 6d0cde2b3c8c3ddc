"""What one worker was asked to do: how many jobs it takes and runs, in which order, and until when. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from consumer.backlog import LONGEST_WAIT_SECONDS, Order, Slots, Tell
from shared.kinds.command import COMMAND
from shared.kinds.registry import Lane
from shared.settings import Settings

NEWEST_AT_ONCE = 10
"""How many jobs run at once in the order `newest`, unless somebody says otherwise."""

# A job that finds no slot for so long goes back, because another worker may be idle.
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The kinds of one worker, and the options that it was started with.

    Attributes:
        lanes: Those whose jobs it takes.
        concurrency: How many jobs run at once, over all kinds and lanes; None where nothing was asked for.
        drains: Whether it ends when its queues are empty.
        every_seconds: From one round to the next; None for a worker that takes jobs all the time, or drains.
    """

    kinds: tuple[str, ...]
    lanes: tuple[Lane, ...] = tuple(Lane)
    order: Order = Order.OLDEST
    concurrency: int | None = None
    drains: bool = False
    every_seconds: float | None = None

    @property
    def has_rounds(self) -> bool:
        """Whether it takes jobs until its queues are empty, and then takes none for a while."""
        return self.drains or self.every_seconds is not None

    @property
    def _at_once(self) -> int | None:
        return self.concurrency or (NEWEST_AT_ONCE if self.order is Order.NEWEST else None)

    def at_once(self, kind: str, settings: Settings) -> int | None:
        """Return how many jobs of a kind run at once in both lanes; None for as many as are in hand."""
        if kind == COMMAND and self.concurrency is None:
            return settings.command_concurrency
        return self._at_once

    def prefetch(self, kind: str, lane: Lane, settings: Settings) -> int:
        """Return how many jobs of a kind and lane are in hand: few more than run, or there is a choice."""
        most = _prefetch_by_lane(settings)[lane]
        at_once = self.at_once(kind, settings)
        if at_once is None:
            return most
        if self.order is Order.NEWEST:
            return max(most, at_once)
        # One more, or a job of the bulk lane would begin while the next interactive one is on its way.
        return at_once + 1 if lane is Lane.INTERACTIVE else at_once

    def running_by_lane(self, settings: Settings) -> dict[Lane, int]:
        """Return how many jobs with a host run at once at most in each lane of a kind."""
        return {lane: min(most, self._at_once or most) for lane, most in _prefetch_by_lane(settings).items()}

    def bundle_prefetch(self, kind: str, settings: Settings) -> int:
        """Return how many bundles of a kind are in hand: about as many jobs as those that come alone."""
        return max(1, self.prefetch(kind, Lane.BULK, settings) // settings.bundle_jobs)

    def slots_by_kind(
        self, settings: Settings, *, is_paused: Callable[[str, Lane], bool], tell: Tell = lambda *_: None
    ) -> dict[str, Slots]:
        """Return the slots of the kinds that need one: all share them, but commands."""
        slots = {}
        if self._at_once is not None:
            slots = dict.fromkeys(self.kinds, self._slots(self._at_once, is_paused, tell))
        if COMMAND in self.kinds and self.concurrency is None:
            slots[COMMAND] = self._slots(settings.command_concurrency, is_paused, tell)
        return slots

    def _slots(self, limit: int, is_paused: Callable[[str, Lane], bool], tell: Tell) -> Slots:
        # With a choice or an end to reach it keeps what it has for as long as it may.
        keeps = self.order is Order.NEWEST or self.has_rounds
        max_wait_seconds = LONGEST_WAIT_SECONDS if keeps else _PATIENCE_SECONDS
        return Slots(
            limit, order=self.order, max_wait_seconds=max_wait_seconds, is_paused=is_paused, tell=tell
        )


def _prefetch_by_lane(settings: Settings) -> dict[Lane, int]:
    return {
        Lane.INTERACTIVE: settings.worker_interactive_prefetch,
        Lane.BULK: settings.worker_bulk_prefetch,
    }
