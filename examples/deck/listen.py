"""Print the outcomes of the deck, each once.

`listen.py 20` ends after twenty; `listen.py 0` only makes the queue in which they wait.
"""

import asyncio
import json
import sys

import aio_pika

AMQP_URL = "amqp://guest:guest@127.0.0.1:5672/"


async def main(wanted: int) -> None:
    """Print so many outcomes, one a line."""
    async with await aio_pika.connect(AMQP_URL) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=20)
        # Durable: what is announced while nobody listens waits in it.
        queue = await channel.declare_queue("deck", durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind("outcomes", "fetch.*")
        if wanted:
            async with queue.iterator() as messages:
                await print_outcomes(messages, wanted)


async def print_outcomes(messages: aio_pika.abc.AbstractQueueIterator, wanted: int) -> None:
    """Print outcomes until there were so many different ones; those of other fetches are passed over."""
    # Outcomes come at least once; by its message id one is known when it comes again.
    seen: set[str | None] = set()
    async for message in messages:
        outcome = json.loads(message.body)
        if outcome.get("ref", "").startswith("deck/") and message.message_id not in seen:
            seen.add(message.message_id)
            card = outcome.get("result", {}).get("data")
            print(json.dumps({"state": outcome["state"], "data": card}), flush=True)
        # Acked after it was printed: a crash between the two shows it again, and loses none.
        await message.ack()
        if len(seen) == wanted:
            return


asyncio.run(asyncio.wait_for(main(int(sys.argv[1])), timeout=60))
