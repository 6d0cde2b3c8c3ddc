"""Documents that are got from a server for the links in them."""

import gzip
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, repeat
from pathlib import Path
from threading import Thread

import pytest

from deploy.local.ports import free_ports
from retriever_client.cli.links.document import Format
from retriever_client.cli.links.inputs import Place, Reading, Source, Unread, places, read
from retriever_client.cli.links.pages import fetch_page
from retriever_client.cli.links.targets import Rules, Web, target_of


class Site(BaseHTTPRequestHandler):
    """A page, a redirect to it, one that is packed and one that never ends."""

    def do_GET(self) -> None:
        status = {"/old": 302, "/gone": 410}.get(self.path, 200)
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=iso-8859-1")
        if self.path == "/old":
            self.send_header("Location", "/new/page")
        body = b"<a href='\xe9'>"
        if self.path == "/packed":
            self.send_header("Content-Encoding", "gzip")
            body = gzip.compress(b" " * 1_000_000 + body)
        self.end_headers()
        try:
            self.wfile.write(body)
            while self.path == "/endless":
                self.wfile.write(b" " * 65_536)
        except ConnectionError:
            pass

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def read_page(url: str, *, most_bytes: int = 2_000_000) -> Source | Unread:
    reading = Reading(fetch=fetch_page, most_bytes=dict.fromkeys(Format, most_bytes))
    (page,) = read(places([url], reading), reading)
    return page


def test_links_of_a_page_start_from_where_its_redirects_end(site: str) -> None:
    page = read_page(f"{site}/old")

    assert isinstance(page, Source)
    assert (page.written_in, page.url) == (Format.HTML, f"{site}/new/page")
    assert target_of(page.extraction.links[0], page, Rules()) == Web(f"{site}/new/é")


def test_a_packed_page_is_unpacked_up_to_its_limit(site: str) -> None:
    assert isinstance(read_page(f"{site}/packed"), Source)
    assert read_page(f"{site}/packed", most_bytes=1_000) == Unread(
        f"{site}/packed", "longer than 1,000 bytes"
    )


def test_a_page_that_never_ends_is_left(site: str) -> None:
    assert read_page(f"{site}/endless") == Unread(f"{site}/endless", "longer than 2,000,000 bytes")


def test_a_page_that_is_not_got_is_told_with_its_reason(site: str) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}/"

    gone, refused = read_page(f"{site}/gone"), read_page(nobody)

    assert gone == Unread(f"{site}/gone", "the server answered 410")
    assert isinstance(refused, Unread)
    assert "ConnectError" in refused.reason


def test_documents_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("[a](b)")

    endless = read(repeat(Place("a.md", tmp_path / "a.md", written_in=Format.MARKDOWN)), Reading())

    assert [each.name for each in islice(endless, 3)] == ["a.md"] * 3
