"""What is asked for, at first and behind redirects and links, is what the URL Standard says."""

import asyncio

import pytest

from consumer.handlers.check import check
from consumer.handlers.paged_fetch import fetch_or_page
from consumer.http.client import HttpRequest
from consumer.http.failures import Failure
from consumer.http.redirect_chain import RedirectChain, final_answer
from shared.kinds.check import CheckArgs
from shared.kinds.fetch import FetchArgs
from shared.kinds.requests import Robots
from shared.outcomes import Succeeded
from tests.support.http_servers import RawServer, client_that_reaches_loopback, raw_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TWINS = pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])


def moved(location: bytes) -> bytes:
    return b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % location


def asked(server: RawServer) -> list[str]:
    """Return the request targets that a server has seen."""
    return [head.split(" ", 2)[1] for head in server.heads]


async def follow(
    url: str, *, plain: bool, robots: Robots = Robots.IGNORE
) -> tuple[RedirectChain, int | Failure]:
    chain = RedirectChain(url)
    async with (
        asyncio.timeout(10),
        client_that_reaches_loopback(plain=plain) as client,
        final_answer(client, chain, HttpRequest("GET", url, robots=robots)) as answer,
    ):
        return chain, answer if isinstance(answer, Failure) else answer.status


@TWINS
@pytest.mark.parametrize(
    ("start", "location", "target"),
    [
        ("web/2020/http://ex.org/docs/old", b"new", "/web/2020/http://ex.org/docs/new"),
        ("x/y?a", b"?", "/x/y?"),
        ("x/y?a", b"#z", None),
        ("x?", b"?a", "/x?a"),
        ("x", b"///{host}/z", "/z"),
        ("x", b"\\\\{host}\\z?\\", "/z?\\"),
        ("x", b"/\\{host}", "/"),
        ("x/y", b"..\\z", "/z"),
        ("x/y", b"http:z", "/x/z"),
        ("x", b"/a\tb", "/ab"),
        ("x", b"/%zz/%2F/%e9//..?%zz", "/%zz/%2F/%e9/?%zz"),
        ("x", b"/caf\xe9?caf\xe9", "/caf%E9?caf%E9"),
        ("x", "/\u00fc|^{}\"<>`'?|^{}\"<>`'".encode(), "/%C3%BC|%5E%7B%7D%22%3C%3E%60'?|^{}%22%3C%3E`%27"),
        ("x", b"//0x7f.1:{port}/", "/"),
        ("x", b"//127.0.0.1.:{port}/", "/"),
        ("x", b"//%31%32%37%2e0.0.1:{port}/", "/"),
        ("x", "//\uff11\uff12\uff17.1:{port}/".encode(), "/"),
        ("x", b"//user:word@{host}/", "/"),
    ],
)
async def test_a_redirect_is_followed_as_browsers_follow_it(
    start: str, location: bytes, target: str | None, *, plain: bool, unused_port: int
) -> None:
    port = unused_port
    there = location.replace(b"{host}", b"127.0.0.1:{port}").replace(b"{port}", str(port).encode())
    async with raw_server(moved(there), OK, port=port) as server:
        chain, status = await follow(server.url + start, plain=plain)

    if target is None:
        assert isinstance(status, Failure) and status.reason == "redirect_loop"
    else:
        assert (status, asked(server)) == (200, [f"/{start}", target])
        assert chain.url == server.url[:-1] + target
        assert "authorization" not in server.heads[1].lower()


@TWINS
async def test_an_empty_query_and_octets_as_they_were_written_are_asked_for(*, plain: bool) -> None:
    for path in ("?", "x?", "x??", "%e9%2f%zz?%7E~&&=", "|[]~!$&'()*+,;=:@"):
        async with raw_server(OK) as server:
            chain, _ = await follow(server.url + path, plain=plain)

        assert asked(server) == [f"/{path}"] and chain.url == server.url + path


@TWINS
async def test_a_fragment_is_inherited_as_it_was_written(*, plain: bool) -> None:
    async with raw_server(moved(b"/a"), moved(b"/b#"), OK) as server:
        chain, _ = await follow(f"{server.url}#%E9", plain=plain)

    assert [hop["location"] for hop in chain.hops] == [f"{server.url}a#%E9", f"{server.url}b#", None]


async def test_a_redirect_that_leads_nowhere_says_why_in_a_check() -> None:
    refused = moved(b"http://[fe80::1%25lo]/")
    async with raw_server(refused) as server, client_that_reaches_loopback() as client:
        outcome = await check(CheckArgs(url=server.url), client)

    assert isinstance(outcome, Succeeded)
    assert (outcome.result["verdict"], outcome.result["reason"]) == ("broken", "redirect_invalid")
    assert outcome.result["explanation"].endswith("not an HTTP URL: invalid IPv6 address.")


async def test_robots_and_its_redirects_are_read_by_the_same_join() -> None:
    rules = b"User-agent: *\nDisallow: /x?\n"
    file = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(rules), rules)
    async with raw_server(moved(b"\\elsewhere\\..\\rules?"), file) as server:
        _, denied = await follow(f"{server.url}x?", plain=False, robots=Robots.RESPECT)

    assert isinstance(denied, Failure) and denied.reason == "robots_denied"
    assert asked(server) == ["/robots.txt", "/rules?"]


@pytest.mark.parametrize(
    ("reference", "following"),
    [
        ("new", "/web/http://ex.org/new"),
        ("?", "/web/http://ex.org/list?"),
        ("\\p\\2", "/p/2"),
        ("?page=%E9|#%E9", "/web/http://ex.org/list?page=%E9|#%E9"),
        ("//[::1%25lo]/", None),
        ("mailto:a@example.org", None),
    ],
)
@pytest.mark.parametrize("by", ["link", "next_url"])
async def test_a_next_page_is_read_by_the_same_join(by: str, reference: str, following: str | None) -> None:
    body = b'{"items": [1], "next": "%s"}' % reference.replace("\\", "\\\\").encode()
    head = b'HTTP/1.1 200 OK\r\nLink: <%s>; rel="next"\r\nContent-Length: %d\r\n\r\n'
    pages = {"by": by, "items": "items"} | ({"next_url": "next"} if by == "next_url" else {})
    async with raw_server(head % (reference.encode(), len(body)) + body) as server:
        args = FetchArgs.model_validate({"url": f"{server.url}web/http://ex.org/list", "pages": pages})
        async with client_that_reaches_loopback() as client:
            outcome = await fetch_or_page(args, client)

    assert isinstance(outcome, Succeeded) and outcome.page is not None
    place = outcome.page.following
    if following is None:
        assert place is None and outcome.page.stopped_by == "invalid_next"
    else:
        assert place is not None and place.url == server.url[:-1] + following


async def test_a_parameter_leaves_the_rest_of_the_url_as_it_was() -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]") as server:
        url = f"{server.url}web/http://ex.org//list;v?a=%E9|&b#%E9"
        args = FetchArgs.model_validate({"url": url, "pages": {"by": "page"}})
        async with client_that_reaches_loopback() as client:
            await fetch_or_page(args, client)

    assert asked(server) == ["/web/http://ex.org//list;v?a=%E9|&b&page=1"]


async def test_a_cookie_of_a_path_goes_with_its_empty_query() -> None:
    wall = b"HTTP/1.1 302 Found\r\nLocation: ?\r\nSet-Cookie: in=1; Path=/x\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(wall, OK) as server:
        _, status = await follow(f"{server.url}x?", plain=False)

    assert status == 200 and "Cookie: in=1" in server.heads[1]
