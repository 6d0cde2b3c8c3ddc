"""What one request goes through: its phases and their times, the address, the certificate.

Every request carries its `Recording`, and `RecordingConnector` notes there what aiohttp keeps to itself. That
costs a request one small object and a few looks at the clock.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any

import aiohttp
from aiohttp.tracing import Trace

from consumer.egress import AddressInfo
from consumer.http.answers import AnswerProtocol
from consumer.http.handshakes import WitnessedHandshake
from consumer.politeness.address_limiters import AddressPermits
from shared.kinds.check import Family, TimingsJson

SocketFactory = Callable[[AddressInfo], Any]

_IPV4, _IPV6 = Family.IPV4.value, Family.IPV6.value


class Phase(StrEnum):
    """What a request is doing, in words that people read in explanations."""

    DNS = "looking up the name"
    PERMIT = "waiting until this worker may ask the host"
    CONNECT = "connecting"
    TLS = "agreeing on TLS"
    ANSWER = "waiting for the answer"
    BODY = "reading the body"


class Recording:
    """One request, as it happens. A repeated request starts anew.

    What has not happened yet is an attribute of the class: every request makes one, and few go through all
    phases.

    Attributes:
        ip: The peer, once there was a connection.
        addresses: What was dialled last, as `getaddrinfo` gives it.
        certificate: The peer's, verified, DER.
        permits: For the addresses that it is sent to; None limits none.
        first_byte_timeout_seconds: What `clock` is set to once there is a connection; None stops it.
    """

    phase: Phase = Phase.DNS
    is_reused: bool = False
    ip: str | None = None
    addresses: tuple[tuple[Any, ...], ...] = ()
    certificate: bytes | None = None
    protocol: str | None = None
    _began: float = 0.0
    _dialled: float | None = None
    _is_literal: bool = False
    _reached: float | None = None
    _is_tls: bool = False
    _connected: float | None = None
    _answered: float | None = None
    _ended: float | None = None
    _timings: TimingsJson | None = None

    def __init__(
        self,
        first_byte_timeout_seconds: float | None = None,
        clock: asyncio.Timeout | None = None,
        permits: AddressPermits | None = None,
    ) -> None:
        """Begin the recording of a request that is about to be sent."""
        self.first_byte_timeout_seconds = first_byte_timeout_seconds
        self.clock = clock
        self.permits = permits
        self.started = time.monotonic()

    def begin(self) -> None:
        """Note that a connection is asked for."""
        self.phase = Phase.DNS
        self.is_reused = True
        self._began = time.monotonic()
        self._dialled = self._reached = self._connected = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for a permit while inside: the time is ours, so neither clock nor timings count it."""
        phase, self.phase, since = self.phase, Phase.PERMIT, time.monotonic()
        due = None if self.clock is None else self.clock.when()
        if self.clock is not None:
            self.clock.reschedule(None)
        yield
        # Only when it has ended well: whoever ends it from outside is told of this phase.
        self.phase, seconds = phase, time.monotonic() - since
        self.started += seconds
        self._began += seconds
        if self.clock is not None and due is not None:
            self.clock.reschedule(due + seconds)

    def dial(self, addresses: list[tuple[Any, ...]], *, is_literal: bool, is_tls: bool) -> None:
        """Note that addresses are about to be tried."""
        self.phase = Phase.CONNECT
        self.is_reused = False
        self.addresses = tuple(addresses)
        self._is_literal, self._is_tls = is_literal, is_tls
        self._dialled = self._dialled or time.monotonic()

    def reach(self) -> None:
        """Note that there is a TCP connection."""
        self.phase = Phase.TLS if self._is_tls else Phase.ANSWER
        self._reached = time.monotonic()

    def connect(self, transport: asyncio.Transport | None, peer: str | None) -> None:
        """Note the connection that the request goes over, new or kept, and the address that it leads to."""
        self.phase = Phase.ANSWER
        self._connected = time.monotonic()
        if transport is not None:
            self.ip = peer
            if tls := transport.get_extra_info("ssl_object"):
                self.certificate, self.protocol = tls.getpeercert(binary_form=True), tls.version()
        self._wind_clock()

    def _wind_clock(self) -> None:
        clock, self.clock = self.clock, None
        if clock is not None and not clock.expired():
            limit = self.first_byte_timeout_seconds
            clock.reschedule(None if limit is None else asyncio.get_running_loop().time() + limit)

    def answer(self) -> None:
        """Note that the header of the answer is there."""
        self.phase = Phase.BODY
        self._answered = self._ended = time.monotonic()

    def end(self) -> None:
        """Note that the body is there."""
        self._ended = time.monotonic()
        self._timings = None

    @property
    def family(self) -> str | None:
        """The family of the peer's address, as `Family` writes it."""
        return None if self.ip is None else _IPV6 if ":" in self.ip else _IPV4

    @property
    def timings(self) -> TimingsJson:
        """How long each phase took, until now or until it ended."""
        if self._ended is None:
            return self._timings_by(time.monotonic())
        if self._timings is None:
            self._timings = self._timings_by(self._ended)
        return self._timings

    def _timings_by(self, now: float) -> TimingsJson:
        return {
            "dns_seconds": None if self._is_literal else _between(self._began, self._dialled),
            "connect_seconds": _between(self._dialled, self._reached),
            "tls_seconds": _between(self._reached, self._connected) if self._is_tls else None,
            "first_byte_seconds": _between(self._connected, self._answered),
            "total_seconds": round(now - self.started, 6),
        }

    @property
    def header_seconds(self) -> float:
        """How long it took until the header of the answer was there."""
        return round((self._answered or time.monotonic()) - self.started, 6)


class RecordedRequest(aiohttp.ClientRequest):
    """A request that carries its recording to the connector; whoever makes one sets it."""

    recording: Recording


class RecordingConnector(aiohttp.TCPConnector):
    """A connector that notes in each request's recording what happens.

    `connect` is public. `_wrap_create_connection` is not, but it is the same since aiohttp 3.9, and the only
    place where TCP and TLS can be told apart, and where a protocol of ours can read the answers; tests fail
    when it is gone.
    """

    def __init__(self, *, socket_factory: SocketFactory, **options: Any) -> None:
        """Make a connector; every socket comes from the factory, the guard."""
        self.polite_socket = polite_socket_factory(socket_factory)
        super().__init__(socket_factory=self.polite_socket, **options)

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the signature is aiohttp's.
    ) -> aiohttp.connector.Connection:
        """Return a connection for a request, kept or new, to an address that has given a permit.

        Raises:
            AddressBusy: none has, in time.
        """
        assert isinstance(req, RecordedRequest)
        recording, permits = req.recording, req.recording.permits
        if permits is not None:
            permits.begin()
        while True:
            recording.begin()
            connection = await super().connect(req, traces, timeout)
            peer = _peer(connection.transport)
            if permits is None or peer is None or not recording.is_reused or permits.reuse(peer):
                break
            # Others may use it meanwhile, or the host may close it.
            connection.release()
            with recording.waiting():
                await permits.wait(peer)
        recording.connect(connection.transport, peer)
        if permits is not None and peer is not None:
            permits.connected(peer)
        return connection

    async def _wrap_create_connection(self, *args: Any, **options: Any) -> Any:
        request: RecordedRequest = options["req"]
        recording, addresses = request.recording, options["addr_infos"]
        await put_permitted_first(addresses, recording)
        is_literal = addresses[0][4][0] == request.url.host
        context = options.get("ssl")
        recording.dial(addresses, is_literal=is_literal, is_tls=context is not None)
        if context is not None:
            context.sslobject_class = WitnessedHandshake

        def make_protocol() -> asyncio.Protocol:
            # The event loop asks for the protocol once it has the connected socket, before TLS.
            recording.reach()
            return AnswerProtocol(self._loop)

        token = _dialling.set(recording.permits)
        try:
            return await super()._wrap_create_connection(make_protocol, *args[1:], **options)
        except (aiohttp.ClientConnectorError, TimeoutError) as error:
            if (permits := recording.permits) is not None:
                permits.failed_dial = error
                if (busy := permits.busy) is not None:
                    raise busy from error
            raise
        finally:
            _dialling.reset(token)


_dialling: ContextVar[AddressPermits | None] = ContextVar("dialling", default=None)
"""The permits of the connection that is being made. aiohttp tries several addresses at once, in tasks of its
own, and has nothing else that leads from a socket to its request."""


async def put_permitted_first(addresses: list[AddressInfo], recording: Recording) -> None:
    """Let an address be dialled first that has a permit.

    The others are tried, as always, if there is a permit for them then.

    Raises:
        AddressBusy: none has one in time.
    """
    permits = recording.permits
    if permits is None:
        return
    literals = [info[4][0] for info in addresses]
    index = permits.choose(literals)
    if index is None:
        index = permits.never_dialled(literals)
        if index is None:
            # aiohttp tries again what has failed; once is enough.
            assert permits.failed_dial is not None
            raise permits.failed_dial
        with recording.waiting():
            await permits.wait(literals[index])
    if index:
        addresses.insert(0, addresses.pop(index))


def polite_socket_factory(make_socket: SocketFactory) -> SocketFactory:
    """Return a factory that makes sockets only for addresses that have a permit for who dials them."""

    def make_polite_socket(info: AddressInfo) -> Any:
        # The guard comes first: what it denies needs no permit.
        made, permits = make_socket(info), _dialling.get()
        if permits is not None and not permits.dial(info[4][0]):
            made.close()
            raise OSError(None, "no permit for this address")
        return made

    return make_polite_socket


@contextmanager
def dialling(permits: AddressPermits | None) -> Iterator[None]:
    """Take the permits for what is dialled while inside, with a socket of a polite factory."""
    token = _dialling.set(permits)
    try:
        yield
    finally:
        _dialling.reset(token)


def _peer(transport: asyncio.Transport | None) -> str | None:
    name = None if transport is None else transport.get_extra_info("peername")
    return name[0] if name else None


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 6)
