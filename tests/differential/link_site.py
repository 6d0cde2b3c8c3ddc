"""A site of 300 links, fine ones and odd ones, for two checkers to disagree about."""

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from html import escape

LINKS = 300
HANG = b""
"""Instead of an answer: none, and the connection stays open."""
HANG_UP = b"\0"
"""Instead of an answer: the connection is closed."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one path answers, byte for byte; to HEAD the same as to GET when nothing else is said."""

    get: bytes
    head: bytes | None = None


@dataclass(frozen=True, slots=True)
class LinkSite:
    """A running site; `hrefs` are its links by name, as its index page writes them."""

    index: str
    hrefs: Mapping[str, str]


@contextlib.asynccontextmanager
async def open_link_site(tls: ssl.SSLContext, *, unused_port: int) -> AsyncIterator[LinkSite]:
    """Serve the site on loopback, once plain and once with TLS that nobody trusts."""
    serving: set[asyncio.Task[None]] = set()
    pages = dict(PAGES)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await _answer(pages, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # The client went; that is its right.
        except asyncio.CancelledError:
            pass  # The site closes; Python 3.11 would report a server's cancelled task as an error.
        finally:
            serving.discard(task)
            writer.close()

    plain = await asyncio.start_server(serve, "127.0.0.1", 0)
    secure = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    ports = [server.sockets[0].getsockname()[1] for server in (plain, secure)]
    hrefs = links(plain_port=ports[0], tls_port=ports[1], unused_port=unused_port)
    pages["/"] = Page(ok("".join(f'<p><a href="{escape(href)}">x</a></p>\n' for href in hrefs.values())))
    try:
        yield LinkSite(f"http://127.0.0.1:{ports[0]}/", hrefs)
    finally:
        for server in (plain, secure):
            server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def _answer(
    pages: Mapping[str, Page], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    request = await reader.readuntil(b"\r\n\r\n")
    method, target, _ = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    page = pages.get(target.partition("?")[0], Page(answer(404, "Not Found")))
    said = page.get
    if method == "HEAD":
        said = page.head if page.head is not None else page.get.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    if HANG in (said, page.get):
        await reader.read()
        return
    if HANG_UP not in (said, page.get):
        writer.write(said)
        await writer.drain()


def answer(status: int, phrase: str = "Said", body: bytes = b"<p>page</p>", **headers: str) -> bytes:
    """Return a whole answer; `_` in the name of a header stands for `-`."""
    fields = {"Content-Type": "text/html", "Content-Length": str(len(body)), "Connection": "close"}
    # By this a host lets LinkChecker ask more than 10 times a second.
    fields["LinkChecker"] = "yes"
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {phrase}\r\n{head}\r\n".encode("latin-1") + body


def ok(body: str = "<html><title>t</title><p id='here'>page</p></html>", **headers: str) -> bytes:
    """Return a good page."""
    return answer(200, "OK", body.encode(), **headers)


def moved(location: str, status: int = 302) -> bytes:
    """Return a redirect."""
    return answer(status, "Moved", b"", Location=location)


STATUSES = (
    *(201, 202, 203, 206, 226, 300, 305, 306, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411),
    *(412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499, 500, 501),
    *(502, 503, 504, 505, 507, 508, 510, 511, 520, 521, 522, 523, 524, 525, 526, 530, 599, 999),
)
_ZIPPED = gzip.compress(b"<p>page</p>" * 100)

PAGES: Mapping[str, Page] = {
    **{f"/status/{status}": Page(answer(status)) for status in STATUSES},
    **{f"/moved/{status}": Page(moved("/fine", status)) for status in (301, 302, 303, 307, 308)},
    **{f"/chain/{left}": Page(moved(f"/chain/{left - 1}" if left > 1 else "/fine")) for left in range(1, 16)},
    **{f"/head-says/{s}": Page(ok(), answer(s, body=b"")) for s in (400, 403, 404, 405, 500, 501, 503)},
    **{f"/get-says/{status}": Page(answer(status), ok("")) for status in (403, 404, 500)},
    "/fine": Page(ok()),
    "/empty": Page(answer(200, "OK", b"")),
    "/no-content": Page(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
    "/head-hangs": Page(ok(), HANG),
    "/head-hangs-up": Page(ok(), HANG_UP),
    "/hangs": Page(HANG),
    "/hangs-up": Page(HANG_UP),
    "/loop/self": Page(moved("/loop/self")),
    "/loop/a": Page(moved("/loop/b")),
    "/loop/b": Page(moved("/loop/a")),
    "/moved-to/missing": Page(moved("/nothing/here")),
    "/moved-to/nothing": Page(answer(302, "Found", b"")),
    "/moved-to/mail": Page(moved("mailto:ann@example.org")),
    "/moved-to/ftp": Page(moved("ftp://127.0.0.1:1/x")),
    "/moved-to/garbage": Page(moved("http://[::1")),
    "/moved-to/no-such-name": Page(moved("http://nowhere.invalid/")),
    "/moved-to/fragment": Page(moved("/fine#here")),
    "/wall/cloudflare": Page(answer(403, "Forbidden", cf_mitigated="challenge", Server="cloudflare")),
    "/wall/cloudflare-503": Page(answer(503, "Wait", cf_mitigated="challenge", Server="cloudflare")),
    "/wall/basic": Page(answer(401, "Unauthorized", WWW_Authenticate='Basic realm="r"')),
    "/busy/429": Page(answer(429, "Too Many", Retry_After="30")),
    "/busy/503": Page(answer(503, "Busy", Retry_After="30")),
    "/gzip/good": Page(answer(200, "OK", _ZIPPED, Content_Encoding="gzip")),
    "/gzip/cut": Page(answer(200, "OK", _ZIPPED[:30], Content_Encoding="gzip")),
    "/gzip/not": Page(answer(200, "OK", b"plain", Content_Encoding="gzip")),
    "/length/short": Page(answer(200, "OK", b"short", Content_Length="500")),
    "/length/twice": Page(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"),
    "/chunks/bad": Page(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n"),
    "/header/long": Page(ok(X_Long="x" * 10_000)),
    "/header/many": Page(ok(**{f"X_{n}": "1" for n in range(120)})),
    "/garbage": Page(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "/http09": Page(b"<html>no head at all</html>\r\n\r\n"),
    "/early-hints": Page(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + ok()),
    "/latin": Page(ok(X_Name="caf\xe9")),
    "/cookie": Page(ok(Set_Cookie="a=b; Path=/")),
    "/a%20b": Page(ok()),
    "/caf%C3%A9": Page(ok()),
    "/dots/fine": Page(ok()),
    "/large": Page(ok("x" * 3_000_000)),
}


def links(*, plain_port: int, tls_port: int, unused_port: int) -> dict[str, str]:
    """Return 300 links by name; those left over after the odd ones are plain good pages."""
    odd = {path.lstrip("/"): path for path in PAGES if path != "/fine"}
    base = f"127.0.0.1:{plain_port}"
    odd |= {
        "query": "/fine?a=1&b=%20",
        "fragment that exists": "/fine?fragment#here",
        "fragment that does not": "/empty?fragment#nowhere",
        "dot segments": "/dots/x/../fine?dots",
        "blank in the path": "/a b?blank",
        "letters beyond ASCII": "/café?raw",
        "scheme in capitals": f"HTTP://{base}/fine?capitals",
        "user and password": f"http://ann:secret@{base}/fine?user",
        "no scheme": f"//{base}/fine?relative",
        "nobody listens": f"http://127.0.0.1:{unused_port}/",
        "no such name": "http://nowhere.invalid/",
        "label too long": f"http://{'a' * 64}.invalid/",
        "port out of range": "http://127.0.0.1:99999/",
        "no host": "http:///fine",
        "untrusted certificate": f"https://127.0.0.1:{tls_port}/fine",
        "TLS to a plain port": f"https://{base}/fine",
        "plain to a TLS port": f"http://127.0.0.1:{tls_port}/fine",
        "missing": "/nothing/here",
    }
    fine = {f"page {n}": f"/fine?page={n}" for n in range(LINKS - len(odd))}
    return odd | fine
