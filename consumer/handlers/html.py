"""The title of an HTML page and the names to which fragments lead, in linear time.

Python 3.11's `html.parser` takes 48 s for 60 KB of `<a <a <a` (CPython issue 135462), so this cuts pages into
tokens itself. The patterns never backtrack: their repetitions are possessive, and every token ends at the end
of the text at the latest.
"""

import html
import re
from collections.abc import Iterator
from urllib.parse import unquote

from consumer.http.body import bounded_text

MAX_TITLE_LENGTH = 300

# Quoted values may hold `>`; a tag that another `<` cuts short ends there.
_ATTRIBUTES = r"""(?:[^<>"']++|"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))*+"""
# A comment, text that is no markup, and a tag.
_TOKEN = re.compile(
    r"<(?:!--.*?(?:-->|\Z)"
    rf"|title(?=[\s/>]){_ATTRIBUTES}>(?P<title>.*?)(?:</title|\Z)"
    rf"|(?P<script>script(?=[\s/>]){_ATTRIBUTES})>.*?(?:</script|\Z)"
    rf"|(?P<style>style(?=[\s/>]){_ATTRIBUTES})>.*?(?:</style|\Z)"
    rf"|(?P<area>textarea(?=[\s/>]){_ATTRIBUTES})>.*?(?:</textarea|\Z)"
    rf"|(?P<tag>[a-z]{_ATTRIBUTES})>?)",
    re.IGNORECASE | re.DOTALL,
)
_ATTRIBUTE = re.compile(
    r"""([^\s"'>/=]++)(?:\s*+=\s*+(?:"([^"]*+)(?:"|\Z)|'([^']*+)(?:'|\Z)|([^\s"'>]++)))?"""
)


def title_of(text: str) -> str | None:
    """Return the title of a page, shortened, or None when it has none."""
    for token in _TOKEN.finditer(text):
        title = token["title"]
        if title is not None:
            words = " ".join(title[: MAX_TITLE_LENGTH * 8].split())
            return bounded_text(html.unescape(words), MAX_TITLE_LENGTH) or None
    return None


def has_fragment(text: str, fragment: str) -> bool:
    """Return whether a fragment leads to a place in a page, as browsers look for it.

    No fragment, `top` and a text fragment (`:~:text=`) lead somewhere in every page.

    Args:
        text: The page.
        fragment: The fragment of the URL, as it stands there, without `#`.
    """
    wanted = fragment.split(":~:", maxsplit=1)[0]
    if wanted == "" or wanted.lower() == "top":
        return True
    spellings = {wanted, unquote(wanted)}
    return any(name in spellings for name in _names(text))


def _names(text: str) -> Iterator[str]:
    for token in _TOKEN.finditer(text):
        tag = token["tag"] or token["script"] or token["style"] or token["area"]
        if not tag:
            continue
        for attribute in _ATTRIBUTE.finditer(tag):
            if attribute[1].lower() in {"id", "name"}:
                yield html.unescape(attribute[2] or attribute[3] or attribute[4] or "")
