"""A page's title and the names that fragments lead to, in linear time.

`html.parser` of Python 3.11 takes 48 s for 60 KB of `<a <a <a` (CPython issue 135462), so pages of
strangers are cut into tokens by RE2 instead. Every alternative of the token ends at the end of the
text at the latest, so nothing is read twice.
"""

import html
from collections.abc import Iterator
from urllib.parse import unquote

import re2

from consumer.handlers.texts import bounded_text

MAX_TITLE_LENGTH = 300

# Quoted values may hold `>`; a tag that another `<` cuts short ends there.
_ATTRIBUTES = rb"""(?:[^<>"']|"[^"]*(?:"|\z)|'[^']*(?:'|\z))*"""
# A comment, text that is no markup, and a tag.
_TOKEN = re2.compile(
    rb"(?is)<!--.*?(?:-->|\z)"
    rb"|<title(?:[\s/]" + _ATTRIBUTES + rb")?>(?P<title>.*?)(?:</title|\z)"
    rb"|<(?P<script>script" + _ATTRIBUTES + rb")>.*?(?:</script|\z)"
    rb"|<(?P<style>style" + _ATTRIBUTES + rb")>.*?(?:</style|\z)"
    rb"|<(?P<area>textarea" + _ATTRIBUTES + rb")>.*?(?:</textarea|\z)"
    rb"|<(?P<tag>[a-z]" + _ATTRIBUTES + rb")>?"
)
_ATTRIBUTE = re2.compile(
    rb"""(?is)([^\s"'>/=]+)(?:\s*=\s*(?:"([^"]*)(?:"|\z)|'([^']*)(?:'|\z)|([^\s"'>]+)))?"""
)
_SPACE = re2.compile(rb"\s+")


def title_of(text: str) -> str | None:
    """Return the title of a page, shortened, or None when it has none."""
    for token in _TOKEN.finditer(_octets(text)):
        if token["title"] is not None:
            words = _SPACE.sub(b" ", token["title"][: MAX_TITLE_LENGTH * 8]).strip()
            return bounded_text(html.unescape(words.decode("utf-8", "replace")), MAX_TITLE_LENGTH) or None
    return None


def has_fragment(text: str, fragment: str) -> bool:
    """Return whether a fragment leads to a place in a page, as browsers look for it.

    No fragment, `top` and a text fragment (`:~:text=`) lead somewhere in every page.

    Args:
        text: The page.
        fragment: Of the URL, as it stands there, without `#`.
    """
    wanted = fragment.split(":~:", maxsplit=1)[0]
    if wanted == "" or wanted.lower() == "top":
        return True
    spellings = {wanted, unquote(wanted)}
    return any(name in spellings for name in _names(text))


def _names(text: str) -> Iterator[str]:
    for token in _TOKEN.finditer(_octets(text)):
        tag = token["tag"] or token["script"] or token["style"] or token["area"]
        if not tag:
            continue
        for attribute in _ATTRIBUTE.finditer(tag):
            name, *values = attribute.groups()
            if name.lower() in {b"id", b"name"}:
                value = next((value for value in values if value is not None), b"")
                yield html.unescape(value.decode("utf-8", "replace"))


def _octets(text: str) -> bytes:
    # Octets, because RE2 would count the characters before each match in a text.
    return text.encode("utf-8", "replace")
