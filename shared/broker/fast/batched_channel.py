"""A publishing channel that writes what is sent at once in one piece, and matches confirms as they come."""

import asyncio
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from aio_pika.abc import AbstractChannel
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from pamqp.commands import Basic

from shared.broker.delivery import Incoming
from shared.broker.fast.frame_interceptor import Confirm, FrameInterceptor
from shared.broker.fast.frames import FrameWriter
from shared.broker.outgoing import Outgoing, blamed, refused, unroutable
from shared.errors import BrokerUnavailable

# The size of one write to the socket; what comes meanwhile is the next.
_WRITE_BYTES = 262_144
# aiormq's queue of writes is full: the socket takes nothing at the moment.
_RETRY_SECONDS = 0.002


@dataclass(slots=True)
class _Sending:
    """A message on its way, its confirm, and until when, on the clock of the loop, somebody waits for it."""

    message: Outgoing
    answer: asyncio.Future[None]
    give_up_at: float


class BatchedChannel:
    """Writes everything that is sent in one turn of the loop at once, and matches confirms as they come.

    Numbers publishes as the broker does (https://www.rabbitmq.com/docs/confirms): a sequence from 1.
    """

    def __init__(self, channel: AbstractChannel, underlay: Channel, *, timeout_seconds: float) -> None:
        """Take over a new channel in confirm mode."""
        self.channel = channel
        self._underlay = underlay
        self._timeout_seconds = timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._frames = FrameWriter(underlay.number, underlay.max_content_size)
        self._id = uuid.uuid4().hex
        self._number = 0
        self._waiting: deque[_Sending] = deque()
        # The oldest first: numbers and deadlines both grow.
        self._sent: dict[int, _Sending] = {}
        self._is_writing = self._was_refused = self._is_given_up = self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None
        FrameInterceptor(underlay, self._take_return, self._take_confirm, self._note_closing)

    @property
    def is_spent(self) -> bool:
        """Whether a queue has refused a message of it, and nothing is on its way.

        On 3.10 a queue that has room again still refuses the channel that it refused when it was full.
        """
        return self._was_refused and not self._sent and not self._waiting

    def send(self, message: Outgoing) -> asyncio.Future[None]:
        """Publish a message in the next write."""
        answer = self._loop.create_future()
        if self._is_given_up:
            answer.set_exception(_closed())
            return answer
        self._waiting.append(_Sending(message, answer, self._loop.time() + self._timeout_seconds))
        if not self._is_writing:
            self._is_writing = True
            self._loop.call_soon(self._write)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_seconds, self._expire)
        return answer

    def give_up(self, loss: object = None) -> None:
        """Fail everything on its way: no confirm will come."""
        self._is_given_up = True
        if self._timer is not None:
            self._timer.cancel()
        sent, self._sent = self._sent, {}
        waiting, self._waiting = self._waiting, deque()
        for sending in (*sent.values(), *waiting):
            _fail(sending, blamed(sending.message, loss) or _closed())

    def _write(self) -> None:
        if self._is_given_up or self._is_closing:
            # A channel whose connection is dead never takes anything again. And for what comes behind the
            # answer to its close, the broker ends the connection: what waits here is given up in a moment.
            return
        if self._underlay.write_queue.full():
            self._loop.call_later(_RETRY_SECONDS, self._write)
            return
        written = b"".join(self._next_frames())
        if not written:
            self._is_writing = False
            return
        drained = self._loop.create_future()
        drained.add_done_callback(lambda _: self._write())
        self._underlay.write_queue.put_nowait(ChannelFrame(written, should_close=False, drain_future=drained))

    def _next_frames(self) -> Iterator[bytes]:
        size = 0
        while self._waiting and size < _WRITE_BYTES:
            sending = self._waiting.popleft()
            # Whoever waited for it has given up: nothing is sent.
            if sending.answer.done():
                continue
            try:
                message_id = sending.message.message_id or f"{self._id}-{self._number + 1}"
                frames = self._frames.publish(sending.message, message_id)
            except ValueError as error:
                _fail(sending, error)
                continue
            self._number += 1
            self._sent[self._number] = sending
            size += len(frames)
            yield frames

    def _take_confirm(self, confirm: Confirm) -> None:
        last, is_refusal = confirm.delivery_tag, isinstance(confirm, Basic.Nack)
        numbers = list(takewhile(lambda number: number <= last, self._sent)) if confirm.multiple else [last]
        for number in numbers:
            # None: the message came back before, or its time was over.
            sending = self._sent.pop(number, None)
            if sending is None or sending.answer.done():
                continue
            if is_refusal:
                self._was_refused = True
                _fail(sending, refused(sending.message))
            else:
                sending.answer.set_result(None)

    def _note_closing(self) -> None:
        self._is_closing = True

    def _take_return(self, returned: Incoming) -> None:
        # The broker returns a message before it confirms it.
        _, _, number = (returned.header.properties.message_id or "").rpartition("-")
        sending = self._sent.pop(int(number), None) if number.isdecimal() else None
        if sending is not None:
            _fail(sending, unroutable(sending.message))

    def _expire(self) -> None:
        now = self._loop.time()
        late = [number for number, sending in self._sent.items() if sending.give_up_at <= now]
        for sending in (*(self._sent.pop(number) for number in late), *self._waiting):
            if sending.give_up_at <= now:
                _fail(sending, BrokerUnavailable("no confirm from the broker: TimeoutError"))
        self._waiting = deque(sending for sending in self._waiting if not sending.answer.done())
        following = next(iter((*self._sent.values(), *self._waiting)), None)
        self._timer = None
        if following is not None:
            self._timer = self._loop.call_later(max(following.give_up_at - now, 0.0), self._expire)


def _fail(sending: _Sending, error: Exception) -> None:
    if not sending.answer.done():
        sending.answer.set_exception(error)


def _closed() -> BrokerUnavailable:
    return BrokerUnavailable("no confirm from the broker: the channel closed")
