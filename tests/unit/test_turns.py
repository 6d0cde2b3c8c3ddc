"""Fair turns: who waits, who comes next, and what one caller leaves to the others."""

import asyncio

import pytest

from producer.turns import FairTurns, TurnNotCome


class Crowd:
    """Callers that take a turn each, and the order in which they had it."""

    def __init__(self, turns: FairTurns) -> None:
        self.turns = turns
        self.had: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, *names: str) -> None:
        """Let callers ask for a turn in this order; `a1` and `a2` are of the caller `a`."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self.tasks.append(asyncio.create_task(self._have(name)))
            await settled()

    async def end(self, *names: str) -> None:
        """Let turns end."""
        for name in names:
            self._ends[name].set()
            await settled()

    async def _have(self, name: str) -> None:
        async with self.turns.turn(name[0]):
            self.had.append(name)
            await self._ends[name].wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_caller_who_asks_once_comes_before_the_many_of_another() -> None:
    crowd = Crowd(FairTurns(1))

    await crowd.come("a1", "a2", "a3", "a4", "b1", "c1")
    await crowd.end("a1", "a2", "b1", "c1", "a3", "a4")

    assert crowd.had == ["a1", "a2", "b1", "c1", "a3", "a4"]
    await asyncio.gather(*crowd.tasks)


async def test_who_holds_fewest_is_next() -> None:
    crowd = Crowd(FairTurns(3))

    await crowd.come("a1", "a2", "b1", "a3", "c1")
    await crowd.end("b1")

    assert crowd.had == ["a1", "a2", "b1", "c1"]
    await crowd.end("a1", "a2", "c1", "a3")
    await asyncio.gather(*crowd.tasks)


async def test_one_caller_leaves_the_places_beyond_its_share_to_others() -> None:
    crowd = Crowd(FairTurns(3, share=2))

    await crowd.come("a1", "a2", "a3", "b1")

    assert crowd.had == ["a1", "a2", "b1"]
    await crowd.end("b1")
    assert crowd.had == ["a1", "a2", "b1"]
    await crowd.end("a1")
    assert crowd.had[-1] == "a3"
    await crowd.end("a2", "a3")
    await asyncio.gather(*crowd.tasks)


async def test_a_turn_that_does_not_come_in_time_says_whose_fault_it_is() -> None:
    turns = FairTurns(2, share=1)
    async with turns.turn("a"):
        with pytest.raises(TurnNotCome) as own:
            async with turns.turn("a", wait_seconds=0):
                pass
        async with turns.turn("b"):
            with pytest.raises(TurnNotCome) as others:
                async with turns.turn("c", wait_seconds=0):
                    pass

    assert (own.value.has_share, others.value.has_share) == (True, False)


async def test_who_leaves_before_or_in_the_moment_of_its_turn_takes_no_place_with_it() -> None:
    turns, crowd = FairTurns(1), Crowd(FairTurns(1))
    crowd.turns = turns
    await crowd.come("a1", "b1", "c1")
    before = crowd.tasks[1]
    before.cancel()
    await settled()
    # Its turn comes, and it is cancelled before it runs again.
    crowd._ends["a1"].set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    crowd.tasks[2].cancel()
    await settled()

    async with turns.turn("d", wait_seconds=1):
        pass
    results = await asyncio.gather(*crowd.tasks, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
