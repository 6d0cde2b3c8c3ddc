"""URLs in running text: where they begin and, harder, where they end.

The ends are those of GitHub Flavored Markdown (section 6.9) and of linkify: punctuation behind a URL belongs
to the sentence, and so does a bracket that was opened before the URL. A mail address without `mailto:` is no
link here. Each step goes over a text once, whatever is in it.
"""

import re
from collections.abc import Iterator
from html import unescape

from retriever_client.cli.links.document import Findings, Found, LinkKind, Remark

# Not in a URL: blanks, controls, quotes, and the brackets and stops of Chinese and Japanese, which are
# written without blanks.
_NOT_IN_URLS = (
    '\\s\\x00-\\x1f\\x7f<>"`|\\\\^\u00ab\u00bb\u201c\u201d\u2018\u2019'
    "\u3000-\u3003\u3008-\u3011\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f\uff3b\uff3d"
)
_SCHEME = r"(?<![A-Za-z0-9+.\-])(?:https?|ftps?)://"
_URL = re.compile(rf"{_SCHEME}(?=[\w\[{{$%])[^{_NOT_IN_URLS}]+", re.IGNORECASE)
# Markdown takes a backslash out before punctuation.
_ESCAPE = r"\\[!-/:-@\[-`{-~]"
_MARKDOWN_URL = re.compile(
    rf"(?:{_SCHEME}(?=[\w\[{{$%])|(?<![\w.@/:\-])www\.(?=[\w]))(?:[^{_NOT_IN_URLS}]|{_ESCAPE})+",
    re.IGNORECASE,
)
_TRAILING_ENTITY = re.compile(r"&[A-Za-z0-9#]+;\Z")
_CLOSERS = {")": "(", "]": "[", "}": "{"}
_REMARK = re.compile(r"(?:<!--|#|//|;|\.\.)[ \t]*retriever:[ \t]*([\w-]+)[ \t]*(?:-->)?", re.ASCII)


def find_in_plain_text(text: str) -> Findings:
    """Return the URLs of a text, and comments for us behind `#`, `//`, `;`, `..` or in `<!-- -->`."""
    remarks = [Remark(match.start(), match.end(), match[1]) for match in _REMARK.finditer(text)]
    return Findings(list(find_urls(text)), remarks)


def find_urls(text: str, start: int = 0, end: int | None = None) -> Iterator[Found]:
    """Yield the URLs that a text spells out within [start, end)."""
    for match in _URL.finditer(text, start, len(text) if end is None else end):
        url = match[0][: _length(match[0], before=text[match.start() - 1 : match.start()])]
        if not url.endswith("/" * 2):
            yield Found(match.start(), match.start() + len(url), url, LinkKind.LINK)


def find_urls_of_markdown(text: str) -> Iterator[Found]:
    """Yield the URLs that GitHub makes links of: also `www.` without a scheme, with escapes."""
    for match in _MARKDOWN_URL.finditer(text):
        raw = match[0][: _length(match[0], before=text[match.start() - 1 : match.start()], entities=True)]
        url = unescape(re.sub(rf"({_ESCAPE})", lambda escape: escape[0][1], raw))
        if raw[:4].lower() == "www.":
            if raw.count(".") > 1 or raw[4:5].isalnum():
                yield Found(match.start(), match.start() + len(raw), f"http://{url}", LinkKind.LINK)
        elif not url.endswith("//"):
            yield Found(match.start(), match.start() + len(raw), url, LinkKind.LINK)


def _length(url: str, *, before: str, entities: bool = False) -> int:
    """Return how much of what looks like a URL is one, given the character before it.

    With `entities`, one at the end is no part of it: `&gt;`.
    """
    if before == "'" and "'" in url:
        url = url[: url.index("'")]
    opened: list[str] = []
    for at, character in enumerate(url):
        if character in "([{":
            opened.append(character)
        elif character in _CLOSERS and (not opened or opened.pop() != _CLOSERS[character]):
            url = url[:at]
            break
    length = len(url)
    while length and url[length - 1] in "?!.,:;*_~'([{":
        entity = _TRAILING_ENTITY.search(url, max(0, length - 40), length) if entities else None
        length -= len(entity[0]) if entity else 1
    return length
