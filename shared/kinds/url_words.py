"""What is said of a URL that was handed in and is refused, in words for the person who wrote it. Pure."""

import re
from typing import Final

_MAX_ECHO_LENGTH = 80

# Parsers drop or encode them, so that two lines would become one URL; the URL Standard calls them errors.
_BREAKS: Final = re.compile("[\x00-\x1f\x85\u2028\u2029]")
_BREAK_NAMES: Final = {
    "\0": "a NUL character",
    "\t": "a tab",
    "\n": "a line feed",
    "\r": "a carriage return",
    "\x85": "the control character NEL (U+0085)",
    "\u2028": "a line separator (U+2028)",
    "\u2029": "a paragraph separator (U+2029)",
}

# Blanks, and characters that nobody sees: zero-width, soft hyphen, marks of direction.
INVISIBLE: Final = (
    "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
_AROUND: Final = " \t\n\r\f\u00a0\u2007\u202f\u3000" + INVISIBLE

_RELATIVE = "It is a relative link; the whole URL is needed, with https:// and the host"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,30}):", re.IGNORECASE)
_NO_COLON = re.compile(r"https?[;.,]?[/\\]+", re.IGNORECASE)
_LATER = re.compile(r"(?<!\w)https?://", re.IGNORECASE)
_HOST = re.compile(
    r"""(?: (?:[\w-]+\.)+ [^\W\d_][\w-]+ \.? | localhost | \d{1,3}(?:\.\d{1,3}){3} | \[[0-9a-f:.]+\] )
        (?: :\d{1,5} )? (?= [/?\#] | $ )""",
    re.IGNORECASE | re.VERBOSE,
)


def trimmed(text: str) -> str:
    """Return a URL without the blanks and the invisible characters around it."""
    return text.strip(_AROUND)


def break_in(text: str) -> str | None:
    """Return what is said of a character within a URL that would end its line, or None without one."""
    found = _BREAKS.search(text)
    if found is None:
        return None
    name = _BREAK_NAMES.get(found[0], "a control character")
    ends_no_line = "; only CR, LF or both end a line" if found[0] > "\x1f" else ""
    return f"The URL has {name} in it, at character {found.start() + 1}{ends_no_line}"


def no_http_url(text: str) -> str | None:
    """Return what is said of a text that is no absolute http or https URL; None if it may be one.

    What was meant is repeated as far as its path: user, password and query may be secret.
    """
    if text[:7].lower().startswith(("http:", "https:")):
        return None
    if (start := _NO_COLON.match(text)) and _HOST.match(text, start.end()):
        return f"The colon after the scheme is missing: {_suggestion(text[start.end() :])}"
    bare = text.removeprefix("//")
    if _HOST.match(bare):
        return f"There is no scheme: {_suggestion(bare)}"
    if (later := _LATER.search(text)) and not _SCHEME.match(text):
        return f"There is something before the URL, which begins at character {later.start() + 1}"
    if scheme := _SCHEME.match(text):
        return f"Only http and https URLs are taken; its scheme is {scheme[1].lower()}"
    is_relative = text.startswith(("/", "./", "../", "?", "#"))
    return _RELATIVE if is_relative else "There is no scheme; a URL begins with https:// or http://"


def _suggestion(text: str) -> str:
    shown = re.split(r"[?#]", text, maxsplit=1)[0]
    return f"did you mean https://{shown[:_MAX_ECHO_LENGTH]}?"
