"""Pages that are named by their URL, got for the links in them."""

import httpx2

from retriever_client.cli.links.inputs import Page

_MOST_REDIRECTS = 10
_CHUNK_BYTES = 65_536


class PageUnread(OSError):
    """A page was not got; the message says why."""


def fetch_page(
    url: str, most_bytes: int, *, timeout_seconds: float = 30, user_agent: str = "retriever"
) -> Page:
    """Return the page of a URL: its first `most_bytes` and one more, unpacked, if it is longer.

    Each wait for the server ends after `timeout_seconds`. Redirects are followed, and proxies of the
    environment used, as by any program that a person starts.

    Raises:
        PageUnread: It could not be got, or the server answered with another status than 2xx.
    """
    try:
        with (
            httpx2.Client(
                follow_redirects=True,
                max_redirects=_MOST_REDIRECTS,
                timeout=timeout_seconds,
                headers={"User-Agent": user_agent},
            ) as client,
            client.stream("GET", url) as answer,
        ):
            if not answer.is_success:
                raise PageUnread(f"the server answered {answer.status_code}")
            body = bytearray()
            for chunk in answer.iter_bytes(_CHUNK_BYTES):
                body += chunk
                if len(body) > most_bytes:
                    break
            return Page(
                str(answer.url), answer.headers.get("Content-Type", ""), bytes(body[: most_bytes + 1])
            )
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise PageUnread(f"{type(error).__name__}: {error}") from error
