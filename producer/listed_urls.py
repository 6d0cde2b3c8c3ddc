"""From a line of a list to the URL on it: what people write around URLs, and what is refused in words. Pure.

RFC 3986 appendix C says how URLs stand in plain text: between blanks, quotes or angle brackets.
"""

import re
from typing import Final

from shared.kinds.url_words import INVISIBLE, break_in, trimmed

URL_COLUMNS: Final = ("url", "uri", "link", "href", "address", "loc")
"""What a column of URLs is called, the surest first; in any case."""

TAKEN: Final = (
    "Taken are one URL a line (text/plain), a table with a column named url (text/csv or "
    "text/tab-separated-values), one JSON object a line (application/x-ndjson) and a JSON batch"
)

_OTHER_TEXT = "There is other text beside the URL; a URL stands alone on its line"

# Most lines have nothing that is looked at below.
_BARE = re.compile(r"[a-zA-Z0-9/.][!#-&*+\--:=?-Z_a-z~]*")
# Also the quotes and dashes of word processors.
_PAIRS = {
    "<": ">",
    '"': '"',
    "'": "'",
    "`": "`",
    "(": ")",
    "«": "»",
    "\u201c": "\u201d",
    "\u201e": "\u201c",
    "\u2018": "\u2019",
}
_NEVER_LONELY = frozenset('<>"\u201c\u201d\u201e«»')
_BULLET = re.compile(
    r"(?: (?: [-*+>\u2022\u2013\u2014] | \d{1,9}[.)] ) \s+ (?: \[[ xX]\] \s+ )? | \[[^\]]+\]: \s+ )",
    re.VERBOSE,
)
_MARKDOWN = re.compile(r"""!?\[[^\]]*\]\(\s*(<[^>]*>|\S+?)(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)""")
_COMMENT = re.compile(r"\s+#.*")
_URL_START = re.compile(r"https?://|www\.", re.IGNORECASE)
_LATER_URL = re.compile(rf"([\s,;|]+)[<\"'(]*(?:{_URL_START.pattern})", re.IGNORECASE)
# Joiners are letters of Persian and parts of emoji.
_UNSEEN = re.compile(f"[{''.join(sorted(set(INVISIBLE) - {chr(0x200C), chr(0x200D)}))}]")
_MARKUP = re.compile(r"<\s*[!?/a-z]", re.IGNORECASE)
_LINK_IN_BRACKETS = re.compile(r"<\s*(?:URL:\s*)?(?:https?:|ftp:|mailto:|tel:|www\.)", re.IGNORECASE)


def is_markup(text: str) -> bool:
    """Return whether a text begins as XML and HTML do, and not as a URL in angle brackets."""
    return bool(_MARKUP.match(text)) and not _LINK_IN_BRACKETS.match(text)


def is_header(line: str) -> bool:
    """Return whether a line is the header of a table that has a column of URLs."""
    names = re.split(r"[,;\t|]", line) if "//" not in line else ()
    return any(name.strip(" \"'").lower() in URL_COLUMNS for name in names)


def url_on_line(line: str) -> str | None:
    """Return the URL on a line of a plain list, None if the line is blank or, as with curl, a comment.

    Raises:
        ValueError: there is more than one URL, or something else beside it; the message is for a person.
    """
    if _BARE.fullmatch(line):
        return line
    text = trimmed(line)
    if not text or text.startswith("#"):
        return None
    if not text.isprintable() and (msg := break_in(text.replace("\t", " "))):
        raise ValueError(msg)
    text = _peeled(_BULLET.sub("", text, count=1), is_line=True)
    if blank := re.search(r"\s", text):
        place = f"at character {line.find(text) + blank.start() + 1}"
        if blank[0] == "\t":
            raise ValueError(
                f"There is a tab, {place}; a table is sent as text/csv or text/tab-separated-values"
            )
        raise ValueError(f"There is a blank, {place}, and a blank ends a URL; within one it is written %20")
    return text


def url_in_cell(cell: str) -> str:
    """Return the URL in a cell of a table.

    Raises:
        ValueError: as `url_on_line` says, but for blanks, which a cell may have.
    """
    return cell if _BARE.fullmatch(cell) else _peeled(trimmed(cell), is_line=False)


def _peeled(text: str, *, is_line: bool) -> str:
    """Return a text without quotes, brackets, Markdown, and commas and comments after it, in any order.

    Raises:
        ValueError: what is left is more than a URL, or none.
    """
    if is_markup(text):
        raise ValueError(f"It looks like XML or HTML. {TAKEN}")
    before = None
    while text != before:
        before = text
        if link := _MARKDOWN.fullmatch(text):
            text = link[1]
        if len(text) > 1 and _PAIRS.get(text[0]) == text[-1]:
            text = trimmed(text[1:-1])
            text = text[4:] if text[:4].upper() == "URL:" else text
        if is_line:
            text = trimmed(text.rstrip(",;"))
            text = text if text != before else _COMMENT.sub("", text, count=1)
    _check_alone(text)
    return text


def _check_alone(text: str) -> None:
    if not text:
        raise ValueError("There is no URL on it")
    if text[0] == "[" and "](" in text:
        raise ValueError(_OTHER_TEXT)
    if text[0] in "{[]":
        raise ValueError("It looks like JSON; send it as application/x-ndjson or application/json")
    if later := _LATER_URL.search(text):
        if not _URL_START.match(text):
            raise ValueError(_OTHER_TEXT)
        comma = "; a comma within a URL is written %2C" if "," in later[1] else ""
        raise ValueError(f"There is more than one URL; each needs a line of its own{comma}")
    for mark in (text[0], text[-1]):
        if mark in _NEVER_LONELY and text.count(mark) == 1:
            raise ValueError(f"The {mark} has no partner; a URL stands alone, or between two of them")
    if unseen := _UNSEEN.search(text):
        raise ValueError(f"An invisible character (U+{ord(unseen[0]):04X}) is in the URL")
