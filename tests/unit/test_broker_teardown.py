"""Unit tests of telling a teardown of the library from a cancellation of ours."""

import asyncio

import pytest
from aio_pika.exceptions import ChannelClosed, ChannelInvalidStateError

from shared.broker.connection import CONNECTION_ERRORS, teardown_means_lost


async def wait_for(future: asyncio.Future[None]) -> None:
    with teardown_means_lost():
        await future


async def test_what_aiormq_cancels_is_a_lost_connection_and_ends_no_task() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()

    with pytest.raises(CONNECTION_ERRORS) as caught:
        await wait_for(future)

    assert isinstance(caught.value, ChannelInvalidStateError)


@pytest.mark.parametrize("thrown", [Exception(), RuntimeError("closed"), StopAsyncIteration()])
async def test_what_aiormq_throws_when_it_knows_no_reason_is_a_lost_connection(thrown: Exception) -> None:
    with pytest.raises(ChannelInvalidStateError), teardown_means_lost():
        raise thrown


async def test_an_error_of_ours_stays_one() -> None:
    with pytest.raises(ValueError, match="ours"), teardown_means_lost():
        raise ValueError("ours")


async def test_what_we_cancel_is_cancelled() -> None:
    task = asyncio.create_task(wait_for(asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def close_as_aiormq(*, raising: bool) -> None:
    """Take a cancellation for the end of what was waited for."""
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError as error:
        if raising:
            raise ChannelClosed(0, "") from error


@pytest.mark.parametrize("raising", [False, True], ids=["returns", "raises"])
async def test_our_cancellation_is_not_lost_in_the_library(raising: bool) -> None:
    async def close() -> None:
        with teardown_means_lost():
            await close_as_aiormq(raising=raising)

    task = asyncio.create_task(close())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_is_closed_after_a_cancellation_is_closed_to_the_end() -> None:
    closed: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            with teardown_means_lost():
                await asyncio.sleep(0)
            closed.append("connection")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert closed == ["connection"]


async def test_a_time_limit_within_stays_a_time_limit() -> None:
    with pytest.raises(TimeoutError), teardown_means_lost():
        async with asyncio.timeout(0):
            await asyncio.get_running_loop().create_future()


async def test_a_task_of_a_group_does_not_vanish_with_the_librarys_connection() -> None:
    seen: list[BaseException] = []

    async def consume() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        try:
            await wait_for(future)
        except CONNECTION_ERRORS as error:
            seen.append(error)

    async with asyncio.TaskGroup() as group:
        group.create_task(consume())

    assert len(seen) == 1
