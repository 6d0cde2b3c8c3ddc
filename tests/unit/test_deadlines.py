"""Time limits on the wheel behave as those of asyncio do, within a tick."""

import asyncio
import time

import pytest

from consumer.deadlines import TICK_SECONDS, current_wheel, time_limit


async def forever() -> None:
    await asyncio.Event().wait()


async def test_what_takes_too_long_is_cancelled_and_raises_a_timeout_and_the_task_goes_on() -> None:
    with pytest.raises(TimeoutError), time_limit(0.05):
        await forever()

    task = asyncio.current_task()
    assert task is not None and not task.cancelling()
    await asyncio.sleep(0)


async def test_nothing_expires_before_its_time() -> None:
    for seconds in (0.0, 0.01, 0.03, 0.1):
        start = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError), time_limit(seconds):
            await forever()
        assert asyncio.get_running_loop().time() - start >= seconds


async def test_what_is_done_in_time_is_left_alone_afterwards() -> None:
    with time_limit(0.02):
        pass

    await asyncio.sleep(4 * TICK_SECONDS)


async def test_who_cancels_from_outside_gets_a_cancelled_task_and_no_timeout() -> None:
    async def limited() -> None:
        with time_limit(60):
            await forever()

    task = asyncio.create_task(limited())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_cancels_when_the_time_is_over_is_heard_too() -> None:
    async def limited() -> None:
        with time_limit(0.01):
            try:
                await forever()
            finally:
                # In the moment in which the limit cancels it, somebody else does.
                task = asyncio.current_task()
                assert task is not None
                task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(limited())


async def test_of_two_limits_the_one_that_is_over_is_told() -> None:
    with time_limit(60):
        with pytest.raises(TimeoutError), time_limit(0.02):
            await forever()
        await asyncio.sleep(0)


async def test_an_error_inside_is_not_taken_for_a_timeout() -> None:
    with pytest.raises(KeyError), time_limit(60):
        raise KeyError("of the work")


async def test_a_thousand_limits_take_one_timer_and_are_forgotten_when_they_are_taken_back() -> None:
    wheel = current_wheel()
    kept = [wheel.call_later(60 + number, time.monotonic) for number in range(1_000)]

    for appointment in kept:
        appointment.cancel()
    await asyncio.sleep(3 * TICK_SECONDS)

    assert not wheel._slots and wheel._timer is None


async def test_what_is_called_may_make_the_next_appointment() -> None:
    done = asyncio.Event()
    current_wheel().call_later(0, lambda: current_wheel().call_later(0, done.set))

    async with asyncio.timeout(5):
        await done.wait()
