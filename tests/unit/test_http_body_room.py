"""Room for large bodies is given in turn, and comes back however its holder ends."""

import asyncio

import pytest

from consumer.http.body_room import BodyRoom


async def test_room_is_given_in_turn_and_comes_back() -> None:
    room = BodyRoom(10)
    order: list[int] = []

    async def body(number: int, size: int) -> None:
        with room.hold() as held:
            await held.take(size)
            await held.take(size)  # Once is enough.
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(*(body(i, size) for i, size in enumerate((10, 4, 10, 3)))), 10)

    assert order == [0, 1, 2, 3]
    await asyncio.wait_for(room.take(10), 1)


@pytest.mark.parametrize("is_in_time", [True, False], ids=["while it waits", "in the moment of its turn"])
async def test_who_is_cancelled_takes_no_room_along(is_in_time: bool) -> None:
    room = BodyRoom(10)
    await room.take(10)
    waiting = asyncio.create_task(room.take(10))
    behind = asyncio.create_task(room.take(5))
    await asyncio.sleep(0)

    if is_in_time:
        waiting.cancel()
        room.give(10)
    else:
        room.give(10)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    await asyncio.wait_for(behind, 1)
    await asyncio.wait_for(room.take(5), 1)
