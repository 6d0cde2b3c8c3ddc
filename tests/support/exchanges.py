"""Raw exchanges as data: what a server says, the job, and what is right; tests/data/exchanges has them."""

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import brotli
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator

FOLDER = Path(__file__).resolve().parents[1] / "data" / "exchanges"
CURL_VERSION = FOLDER / "curl.version"


class Then(StrEnum):
    """What a server does after an answer."""

    CLOSE = "close"
    KEEP = "keep"
    RESET = "reset"
    SILENT = "silent"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Piece(_Model):
    """Bytes that are tedious to write out, or a `pause` until the client has read what came before."""

    gzip: "Bytes | None" = None
    zlib: "Bytes | None" = None
    deflate: "Bytes | None" = None
    br: "Bytes | None" = None
    repeat: str | None = None
    times: int = 1
    cut: int | None = None
    pause: Literal["read"] | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        given = [name for name in _MAKERS if getattr(self, name) is not None]
        if len(given) + (self.pause is not None) != 1:
            raise ValueError(f"give one of pause, {', '.join(_MAKERS)}")
        return self

    def octets(self) -> bytes:
        """Return what it stands for; nothing for a pause."""
        name = next((name for name in _MAKERS if getattr(self, name) is not None), None)
        content = getattr(self, name) if name else ""
        made = _MAKERS[name](octets_of(content)) if name else b""
        return (made * self.times)[: self.cut]


Bytes = str | Piece


def _raw_deflate(content: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(content) + stream.flush()


_MAKERS = {
    # Without the time, so that an exchange is the same every day.
    "gzip": lambda content: gzip.compress(content, mtime=0),
    "zlib": zlib.compress,
    "deflate": _raw_deflate,
    "br": brotli.compress,
    "repeat": lambda content: content,
}


def octets_of(part: Bytes) -> bytes:
    """Return the bytes of a part; each character of a text is one byte."""
    return part.octets() if isinstance(part, Piece) else part.encode("latin-1")


class Turn(_Model):
    """One answer of the server.

    Attributes:
        to: The request line up to the version, `*` for any method; `connect` speaks first.
        having: Lines that the request must have, such as `Host: a.example`.
        say: The bytes, joined.
        times: How often at most.
    """

    to: str | None = None
    having: tuple[str, ...] = ()
    say: tuple[Bytes, ...] | str
    then: Then = Then.CLOSE
    times: int | None = None

    @property
    def parts(self) -> tuple[Bytes, ...]:
        """What is said, one part after the other."""
        return (self.say,) if isinstance(self.say, str) else self.say


class CurlVerdict(_Model):
    """What curl came to: its exit code and the status of the last answer, 0 without any."""

    exit: int
    status: int

    @property
    def is_good(self) -> bool:
        """Whether a person who reads curl's output takes the URL for good."""
        return self.exit == 0 and 200 <= self.status < 300


class Exchange(_Model):
    """What a server says, what a job makes of it, and what it should.

    Attributes:
        line: The line of issue 15 that it belongs to, or what it guards.
        why: Where the right result comes from: a section of a standard, or a thread of a tracker.
        server: The first turn that fits a request answers it; nothing that fits is a 404.
        names: The names of hosts that exist; all are this server.
        tls: A sort of certificate (`tests.support.tls`) for a second port, `{tls_port}`.
        attempt: Which attempt of the job it is.
        right: Part of what must come out; see the README beside the files.
        requests: All requests in order; each the method and target, and lines that it must or must not have.
        curl: Written by `python -m tests.support.curl_verdicts`.
        differs: Why we call good what curl does not, or the other way round.
        pending: The line that is still to be mended; the exchange must fail until then.
    """

    name: str
    line: str
    why: str
    server: tuple[Turn, ...] = ()
    names: tuple[str, ...] = ()
    tls: str | None = None
    job: Mapping[Literal["check", "fetch"], Mapping[str, Any]]
    attempt: int = 1
    right: Mapping[str, Any]
    requests: tuple[str | tuple[str, ...], ...] | None = None
    curl: CurlVerdict | None = None
    differs: str | None = None
    pending: str | None = None

    @property
    def kind(self) -> Literal["check", "fetch"]:
        """The kind of the job."""
        (kind,) = self.job
        return kind

    @property
    def url(self) -> str:
        """The URL of the job; a path alone is one of the server."""
        url = str(self.job[self.kind].get("url", "/"))
        return f"http://127.0.0.1:{{port}}{url}" if url.startswith("/") else url

    @property
    def is_good(self) -> bool:
        """Whether the right result is that the URL is good."""
        return (self.right.get("verdict") or self.right.get("outcome")) in {"ok", "succeeded"}

    @model_validator(mode="after")
    def _says_what_is_right(self) -> Self:
        if len(self.job) != 1:
            raise ValueError("a job has one kind")
        # A check that fails for a reason of ours has no verdict either.
        if not {"verdict", "outcome", "refused"} & self.right.keys():
            raise ValueError("say the verdict of a check, the outcome of a fetch, or `refused`")
        return self


_EXCHANGES = TypeAdapter(tuple[Exchange, ...])


@dataclass(frozen=True, slots=True)
class ExchangeFile:
    """One topic."""

    path: Path
    exchanges: tuple[Exchange, ...]


@cache
def exchange_files() -> tuple[ExchangeFile, ...]:
    """Return all exchanges, by file.

    Raises:
        ValueError: a file has a character beyond ASCII: nobody could tell which bytes it stands for.
    """
    return tuple(_read(path) for path in sorted(FOLDER.glob("*.yaml")))


def _read(path: Path) -> ExchangeFile:
    text = path.read_text(encoding="utf-8")
    if not text.isascii():
        raise ValueError(f"{path.name}: write bytes beyond ASCII as \\xE9")
    return ExchangeFile(path, _EXCHANGES.validate_python(yaml.load(text, Loader=yaml.CSafeLoader)))
