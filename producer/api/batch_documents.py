"""A batch as one JSON document. A large one is read an item at a time: tiny items would fill a gigabyte.

The first reading finds where the items are and what stands beside them, the second takes them one by one.
"""

import json
import re
from collections.abc import Generator, Iterator
from typing import Any, Final

import orjson

from producer.api.requests import LARGE_BODY_BYTES, read_document, validate_document
from producer.batch_validation import Arguments
from producer.json_text import DUPLICATE_NAME, TOO_DEEP, AmbiguousJson, read_json
from producer.submission_models import BatchSubmission
from shared.errors import FieldError, JobInvalid

# Some 20 ms of work.
PART_ITEMS: Final = 1_000
MAX_ITEM_CHARACTERS: Final = 1_048_576
"""Of one item, and of all that stands beside the items: as much as a single job may have."""

_ITEMS = "items"
# The document and its array.
_LEVELS_AROUND = 2
_FIRST_WINDOW, _WINDOW_GROWTH = 4_096, 16
_BLANKS = re.compile(r"[ \t\r\n]*")
# What may follow a value or a name.
_BEHIND = frozenset(" \t\r\n,:]}")
# A value is only found here, so it does not matter what is made of its numbers.
_SCANNER = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=len)

_Spans = Generator[tuple[int, int], None, int]


class BatchDocument:
    """Reads a batch. Blocking and not thread-safe: one call at a time, off the event loop."""

    def __init__(self, body: bytes) -> None:
        """Prepare to read a body."""
        self._body = body
        self._text = ""
        # Where the array of items begins.
        self._begin: int | None = None
        self._beside: list[str] = []
        self._scanning = self._scan()
        self._whole: BatchSubmission | None = None

    def scan(self) -> BatchSubmission | None:
        """Read a part of the body; return what it says once all of it is read.

        One item may stand in the place of all. An item may still turn out to be no JSON when it is read.

        Raises:
            JobInvalid: the body is no JSON, or no batch.
        """
        if len(self._body) <= LARGE_BODY_BYTES:
            self._whole = read_batch(self._body)
            return self._whole
        for _ in self._scanning:
            return None
        beside = ",".join(self._beside)
        if len(beside) > MAX_ITEM_CHARACTERS:
            raise _invalid("", f"Beside the items it may have {MAX_ITEM_CHARACTERS:,} characters")
        return read_document(BatchSubmission, f"{{{beside}}}".encode())

    def items(self) -> Iterator[Arguments]:
        """Yield the items in their order; what is refused of one stands in the place of its document.

        Raises:
            JobInvalid: one is no JSON, or nested too deeply.
        """
        if self._whole is not None:
            for index, document in enumerate(self._whole.items):
                yield Arguments(index + 1, f"/{_ITEMS}/{index}", document)
        elif self._begin is not None:
            for index, (begin, end) in enumerate(_spans(self._text, self._begin)):
                at = f"/{_ITEMS}/{index}"
                yield Arguments(index + 1, at, _read_item(self._text[begin:end], at))

    def _scan(self) -> Iterator[int]:
        """Find the items and what stands beside them; yield now and then how many there were so far."""
        try:
            self._text = text = self._body.decode()
        except UnicodeDecodeError as error:
            raise _not_json(f"it is not UTF-8, from byte {error.start + 1} on") from None
        at = _skip(text, 0)
        if not text.startswith("{", at):
            raise _invalid("", "Input should be an object")
        at = _skip(text, at + 1)
        is_open = not text.startswith("}", at)
        while is_open:
            name, begin = _read_name(text, at)
            if name == _ITEMS and text.startswith("[", begin):
                end = yield from self._scan_items(begin)
            else:
                end = _end_of_value(text, begin)
                self._beside.append(text[at:end])
            at, is_open = _after(text, end, "}")
        if _skip(text, at + 1) != len(text):
            raise _not_json("something follows the document")

    def _scan_items(self, begin: int) -> Generator[int, None, int]:
        if self._begin is not None:
            raise AmbiguousJson([FieldError(f"/{_ITEMS}", DUPLICATE_NAME)])
        self._begin, count, spans = begin, 0, _spans(self._text, begin)
        while True:
            try:
                next(spans)
            except StopIteration as end:
                self._beside.append(f'"{_ITEMS}":[{"0" if count else ""}]')
                return int(end.value)
            count += 1
            if count % PART_ITEMS == 0:
                yield count


def read_batch(body: bytes) -> BatchSubmission:
    """Return the JSON batch in a body; in the place of an item that `read_json` refuses is the first reason.

    Raises:
        JobInvalid: the body is no batch, or what is refused is no item.
    """
    try:
        return read_document(BatchSubmission, body)
    except AmbiguousJson as error:
        faults = {
            index: fault for fault in reversed(error.errors) if (index := _item_index(fault.loc)) is not None
        }
        if any(_item_index(fault.loc) is None for fault in error.errors):
            raise
    submission = validate_document(BatchSubmission, body)
    for index, fault in faults.items():
        submission.items[index] = fault
    return submission


def _read_item(text: str, at: str) -> Any:
    try:
        return read_json(text, at=at, levels=_LEVELS_AROUND)
    except AmbiguousJson as error:
        return error.errors[0]
    except JobInvalid:
        raise _invalid("", TOO_DEEP) from None
    except orjson.JSONDecodeError as error:
        raise _not_json(f"{error.msg}, in {at}") from None


def _spans(text: str, begin: int) -> _Spans:
    """Yield where each value of an array begins and ends; return where the array ends."""
    at = _skip(text, begin + 1)
    is_open, index = not text.startswith("]", at), 0
    while is_open:
        end = _end_of_value(text, at, what=f"/{_ITEMS}/{index}")
        yield at, end
        at, is_open = _after(text, end, "]")
        index += 1
    return at + 1


def _end_of_value(text: str, begin: int, *, what: str = "") -> int:
    """Return where a value ends. Reads no more of the text than a value may have.

    Raises:
        JobInvalid: it is too long, nested too deeply or no JSON.
    """
    width = _FIRST_WINDOW
    while True:
        window = text[begin : begin + width]
        is_last = begin + width >= len(text)
        try:
            _, length = _SCANNER.raw_decode(window)
        except RecursionError:
            raise _invalid("", TOO_DEEP) from None
        except ValueError:
            length = len(window)
        # A number that ends with the window may go on behind it, and one before a point goes on.
        if window[length : length + 1] in _BEHIND:
            return begin + length
        if is_last:
            raise _not_json(f"there is no value at character {begin + 1}")
        if width >= MAX_ITEM_CHARACTERS:
            most = f"of up to {MAX_ITEM_CHARACTERS:,} characters"
            raise _not_json(f"there is no value {most} at character {begin + 1}", at=what)
        width = min(width * _WINDOW_GROWTH, MAX_ITEM_CHARACTERS)


def _read_name(text: str, begin: int) -> tuple[str, int]:
    """Return the name of a member, and where its value begins."""
    if not text.startswith('"', begin):
        raise _not_json(f"a name is missing at character {begin + 1}")
    end = _end_of_value(text, begin)
    name: str = json.loads(text[begin:end])
    colon = _skip(text, end)
    if not text.startswith(":", colon):
        raise _not_json(f"a colon is missing at character {colon + 1}")
    return name, _skip(text, colon + 1)


def _after(text: str, end: int, closing: str) -> tuple[int, bool]:
    """Return where the next value or name begins, or where its object or array closes; and which it is."""
    at = _skip(text, end)
    if text.startswith(",", at):
        return _skip(text, at + 1), True
    if not text.startswith(closing, at):
        raise _not_json(f"a comma or {closing} is missing at character {at + 1}")
    return at, False


def _skip(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    assert blanks is not None
    return blanks.end()


def _item_index(loc: str) -> int | None:
    match loc.split("/"):
        case ["", "items", index, *_] if index.isdigit():
            return int(index)
        case _:
            return None


def _not_json(why: str, *, at: str = "") -> JobInvalid:
    return _invalid(at, f"The body is not JSON: {why}")


def _invalid(loc: str, msg: str) -> JobInvalid:
    return JobInvalid([FieldError(loc, msg)])
