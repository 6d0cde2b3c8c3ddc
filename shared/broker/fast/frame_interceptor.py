"""Taking deliveries, returns and confirms out of a channel's frames, before aiormq queues them.

aiormq hands every frame through a queue to a task of its channel, and starts a task for each delivery; at
thousands a second that is most of what consuming costs.
"""

from collections.abc import Callable
from typing import Any

from aiormq.channel import Channel
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.commands import Channel as ChannelMethod
from pamqp.header import ContentHeader

from shared.broker.delivery import Incoming

Confirm = Basic.Ack | Basic.Nack
TakeMessage = Callable[[Incoming], None]
TakeConfirm = Callable[[Confirm], None]
Tell = Callable[[], None]


class FrameInterceptor:
    """Takes messages, and confirms if asked to, out of a channel's frames; all other frames go on."""

    def __init__(
        self,
        channel: Channel,
        take: TakeMessage,
        take_confirm: TakeConfirm | None = None,
        tell_closing: Tell = lambda: None,
    ) -> None:
        """Intercept the frames of a channel from now on; the callbacks must not block or raise.

        Args:
            channel: Whose frames.
            take: Called with each message that was delivered or returned.
            take_confirm: Called with each confirm; None passes them on.
            tell_closing: Called when the broker closes the channel, before aiormq answers it.
        """
        self._pass_on = channel.frames.put
        self._take = take
        self._take_confirm = take_confirm
        self._tell_closing = tell_closing
        self._method: Basic.Deliver | Basic.Return | None = None
        self._header: ContentHeader | None = None
        self._body: list[bytes] = []
        self._missing = 0
        channel.frames.put = self._put  # type: ignore[method-assign]

    async def _put(self, item: tuple[int, Any]) -> None:
        frame = item[1]
        if isinstance(frame, ContentBody) and self._header is not None:
            self._add(frame.value)
        elif isinstance(frame, ContentHeader) and self._method is not None:
            self._begin(frame)
        elif isinstance(frame, Basic.Deliver | Basic.Return):
            self._method = frame
        elif self._take_confirm is not None and isinstance(frame, Basic.Ack | Basic.Nack):
            self._take_confirm(frame)
        else:
            if isinstance(frame, ChannelMethod.Close):
                self._tell_closing()
            await self._pass_on(item)

    def _begin(self, header: ContentHeader) -> None:
        self._header, self._body, self._missing = header, [], header.body_size
        if not self._missing:
            self._end()

    def _add(self, part: bytes) -> None:
        self._body.append(part)
        self._missing -= len(part)
        if self._missing <= 0:
            self._end()

    def _end(self) -> None:
        method, header = self._method, self._header
        self._method = self._header = None
        if method is None or header is None:
            return
        tag, again = 0, False
        if isinstance(method, Basic.Deliver):
            tag, again = method.delivery_tag or 0, bool(method.redelivered)
        exchange, routing_key = method.exchange or "", method.routing_key or ""
        self._take(Incoming(tag or 0, bool(again), exchange, routing_key, header, b"".join(self._body)))
