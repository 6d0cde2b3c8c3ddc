"""The documents as tests read them: their blocks, how a block is run, and what its answer must look like.

A block of a document is what stands between two fences. A `sh` or `python` block is run by
`tests/integration/test_docs_run.py` unless the line before it is a comment `<!-- not run: REASON -->`. The
next block, if it has no language, is the answer: ids, times and fractions stand for any, `...` for the rest.
"""

import json
import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("README.md"))
)

RUN_LANGUAGES = frozenset({"sh", "python"})
# Why a block may stay out of the test; anything else is run.
REASONS_NOT_TO_RUN = frozenset(
    {"needs Docker", "starts the service", "takes minutes", "has a test of its own"}
)

_BLOCK = re.compile(r"^(?:<!-- not run: ([^\n]*) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A text is passed over, so that `...` within one stays; outside of texts it stands for keys or items.
_ELIDED = re.compile(r'"(?:\\.|[^"\\])*"|(?P<keys>\.\.\.(?=\s*\}))|(?P<items>\.\.\.(?=\s*\]))')
_ANY = re.compile(
    r"(?P<id>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
    r"|(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00))"
    r"|(?P<fraction>\d+\.\d+)"
    r"|(?P<rest>\.\.\.)"
)
_PATTERNS = {
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)",
    "fraction": r"\d+(?:\.\d+)?",
    "rest": r".*",
}
_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a document.

    Attributes:
        line: Of its opening fence, from 1.
        not_run: Why it is not run; None when it is run, or is in a language that nobody runs.
        answer: The block without a language that follows; None if there is none.
    """

    document: Path
    line: int
    language: str
    text: str
    not_run: str | None
    answer: str | None

    @property
    def is_run(self) -> bool:
        """Whether the test runs it."""
        return self.language in RUN_LANGUAGES and self.not_run is None

    def __str__(self) -> str:
        """Return where it is."""
        return f"{self.document}:{self.line}"


def read(document: str | Path) -> str:
    """Return the text of a document, by its path from the root."""
    return (ROOT / document).read_text(encoding="utf-8")


def prose(document: str | Path) -> str:
    """Return a document without its blocks."""
    return _BLOCK.sub("", read(document))


def blocks(document: str | Path) -> list[Block]:
    """Return the blocks of a document, in order."""
    text = read(document)
    found = list(_BLOCK.finditer(text))
    return [
        Block(
            document=Path(document),
            line=text.count("\n", 0, match.start()) + 1,
            language=match[2],
            text=match[3],
            not_run=match[1],
            answer=after[3] if after is not None and not after[2] else None,
        )
        for match, after in zip_longest(found, found[1:])
    ]


def differences(expected: str, actual: str, ids: MutableMapping[str, str]) -> Iterator[str]:
    """Yield in what a printed answer is not as a document shows it; nothing when it is.

    Parts are separated by blank lines: JSON, the head of an HTTP answer, or lines of text. A part of the
    answer that the document does not show must not come before one that it shows.

    Args:
        ids: Ids of the document and the real ones that they stand for; new ones are added.
    """
    shown, printed = _parts(expected), _parts(actual)
    if len(printed) < len(shown):
        yield f"{len(shown)} parts are shown, and {len(printed)} were printed:\n{actual}"
        return
    for number, (want, got) in enumerate(zip(shown, printed, strict=False), start=1):
        for difference in _part_differences(want, got, ids):
            yield f"part {number}: {difference}; it was\n{got}"


def with_real_names(text: str, names: Mapping[str, str]) -> str:
    """Return a text of a document with its addresses and ids replaced by the real ones."""
    for name, real in names.items():
        text = text.replace(name, real)
    return text


def examples_with_real_names(folder: Path, names: Mapping[str, str]) -> Path:
    """Copy the folder `examples` into another one, with real addresses in every file; return the copy."""
    copy = folder / "examples"
    for path in (ROOT / "examples").rglob("*"):
        if path.is_file() and path.parent.name != "__pycache__":
            fresh = copy / path.relative_to(ROOT / "examples")
            fresh.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(with_real_names(path.read_text(encoding="utf-8"), names), encoding="utf-8")
            fresh.chmod(path.stat().st_mode)
    return copy


def _parts(text: str) -> list[str]:
    return [part.strip("\n") for part in re.split(r"\n\s*\n", text.replace("\r\n", "\n")) if part.strip()]


def _part_differences(want: str, got: str, ids: MutableMapping[str, str]) -> Iterator[str]:
    try:
        shape, document = _shape(want), json.loads(got)
    except ValueError:
        yield from _line_differences(want.splitlines(), got.splitlines(), ids)
    else:
        yield from _value_differences(shape, document, "", ids)


def _shape(text: str) -> Any:
    replaced = {"keys": '"...": null', "items": '"..."', None: ""}
    return json.loads(_ELIDED.sub(lambda found: replaced[found.lastgroup] or found[0], text))


def _line_differences(want: list[str], got: list[str], ids: MutableMapping[str, str]) -> Iterator[str]:
    # Lines of a head may come in any order, with others between them; so may metrics.
    for line in want:
        if line.strip() == "...":
            continue
        if line.startswith("{"):
            if not any(not list(_json_line_differences(line, other, dict(ids))) for other in got):
                yield f"no line is like {line!r}"
        elif not any(_is_like(line, other, ids) for other in got):
            yield f"no line is like {line!r}"


def _json_line_differences(want: str, got: str, ids: MutableMapping[str, str]) -> Iterator[str]:
    try:
        shape, document = _shape(want), json.loads(got)
    except ValueError:
        yield "not JSON"
    else:
        yield from _value_differences(shape, document, "", ids)


def _value_differences(want: Any, got: Any, at: str, ids: MutableMapping[str, str]) -> Iterator[str]:
    match want, got:
        case dict(), dict():
            yield from _object_differences(want, got, at, ids)
        case list(), list():
            yield from _array_differences(want, got, at, ids)
        case str(), str():
            if not _is_like(want, got, ids):
                yield f"{at} is {got!r}, not {want!r}"
        case float(), float() | int() if not isinstance(got, bool):
            pass
        case _:
            if want != got or isinstance(want, bool) is not isinstance(got, bool):
                yield f"{at} is {got!r}, not {want!r}"


def _object_differences(
    want: dict[str, Any], got: dict[str, Any], at: str, ids: MutableMapping[str, str]
) -> Iterator[str]:
    shown = {name: value for name, value in want.items() if name != "..."}
    if "..." not in want and (surplus := got.keys() - shown.keys()):
        yield f"{at or '/'} has {sorted(surplus)}, which are not shown"
    for name, value in shown.items():
        if name in got:
            yield from _value_differences(value, got[name], f"{at}/{name}", ids)
        else:
            yield f"{at}/{name} is missing"


def _array_differences(
    want: list[Any], got: list[Any], at: str, ids: MutableMapping[str, str]
) -> Iterator[str]:
    shown = [item for item in want if item != "..."]
    if len(got) < len(shown) or (len(got) > len(shown) and len(shown) == len(want)):
        yield f"{at} has {len(got)} items, not {len(shown)}"
    for index, (item, other) in enumerate(zip(shown, got, strict=False)):
        yield from _value_differences(item, other, f"{at}/{index}", ids)


def _is_like(want: str, got: str, ids: MutableMapping[str, str]) -> bool:
    """Tell whether two texts are the same but for ids, times, fractions and what `...` leaves out."""
    pattern, names, last = "", [], 0
    for found in _ANY.finditer(want):
        pattern += re.escape(want[last : found.start()])
        kind = str(found.lastgroup)
        if kind == "id":
            names.append(found[0])
            pattern += f"({re.escape(ids[found[0]])})" if found[0] in ids else f"({_ID})"
        else:
            pattern += _PATTERNS[kind]
        last = found.end()
    same = re.fullmatch(pattern + re.escape(want[last:]), got, re.DOTALL)
    if same is None:
        return False
    ids.update(zip(names, same.groups(), strict=True))
    return True
