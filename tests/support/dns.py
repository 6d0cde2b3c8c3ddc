"""A real DNS server on a free port, made with dnslib, that answers as a test wants."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dnslib import AAAA, QTYPE, RCODE, RR, A
from dnslib.server import BaseResolver, DNSLogger, DNSServer

Answer = list[str] | str
"""Addresses, or the name of a response code such as `NXDOMAIN`, or `silence`."""
SILENCE = "silence"


@dataclass(slots=True)
class Names:
    """What a DNS server says: for each name the answers of its lookups in turn; the last is repeated.

    A lookup asks for A and AAAA, so each question counts on its own.
    """

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    server: str = ""
    done: threading.Event = field(default_factory=threading.Event)

    def answer(self, name: str, question: str) -> Answer:
        """Return what is said now."""
        turn = self.asked.count((name, question))
        self.asked.append((name, question))
        answers = self.answers.get(name, ["NXDOMAIN"])
        return answers[min(turn, len(answers) - 1)]


class _Resolver(BaseResolver):  # type: ignore[misc] # dnslib has no types
    def __init__(self, names: Names) -> None:
        self._names = names

    def resolve(self, request: object, handler: object) -> object:
        del handler
        reply = request.reply()  # type: ignore[attr-defined]
        question = QTYPE[request.q.qtype]  # type: ignore[attr-defined]
        name = str(request.q.qname).rstrip(".").lower()  # type: ignore[attr-defined]
        answer = self._names.answer(name, question)
        if answer == SILENCE:
            self._names.done.wait(10)
        elif isinstance(answer, str):
            reply.header.rcode = getattr(RCODE, answer)
        else:
            for address in answer:
                if (":" in address) is (question == "AAAA"):
                    data = AAAA(address) if ":" in address else A(address)
                    reply.add_answer(RR(name, getattr(QTYPE, question), rdata=data, ttl=0))
        return reply


@contextmanager
def dns_server(answers: dict[str, list[Answer]]) -> Iterator[Names]:
    """Serve names over UDP on 127.0.0.1; `server` of what is yielded is for `RETRIEVER_DNS_SERVERS`."""
    names = Names(answers)
    quiet = DNSLogger("-request,-reply,-truncated,-error", prefix=False)
    server = DNSServer(_Resolver(names), address="127.0.0.1", port=0, logger=quiet)
    names.server = f"127.0.0.1:{server.server.server_address[1]}"
    server.start_thread()
    try:
        yield names
    finally:
        names.done.set()
        server.stop()
        server.server.server_close()
