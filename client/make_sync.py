"""Makes the client for threads from that for coroutines: `python client/make_sync.py [--check]`.

Token by token, by names alone: the sources in `_async` are written so that nothing else is needed. With
`--check` nothing is written, and it ends with 1 when what there is is not what would be made.
"""

import sys
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = {
    "AsyncClient": "Client",
    "AsyncIterable": "Iterable",
    "AsyncIterator": "Iterator",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "aclosing": "closing",
    "aiter_lines": "iter_lines",
    "aread": "read",
    "asynccontextmanager": "contextmanager",
    "chunks_async": "chunks",
    "sleep_async": "sleep",
    "_async": "_sync",
    "client_contract_async": "client_contract_sync",
    "client_operators_async": "client_operators_sync",
}
WORDS = {"for coroutines, of which that for threads is made": "for threads, made of that for coroutines"}
LEFT_OUT = {"async", "await"}


def made_of(source: str) -> str:
    """Return the source of the client for threads."""
    return "".join(_pieces(source))


def _pieces(source: str) -> Iterator[str]:
    lines = source.splitlines(keepends=True)
    row, column = 1, 0
    skips_blank = False
    for token in tokenize.generate_tokens(StringIO(source).readline):
        gap = _between(lines, (row, column), token.start)
        yield gap.lstrip(" ") if skips_blank else gap
        row, column = token.end
        skips_blank = token.type == tokenize.NAME and token.string in LEFT_OUT
        if not skips_blank:
            yield _replaced(token)


def _replaced(token: tokenize.TokenInfo) -> str:
    text = token.string
    if token.type == tokenize.NAME:
        return NAMES.get(text) or (text.removeprefix("Async") if text.startswith("Async") else text)
    if token.type == tokenize.STRING:
        for before, after in WORDS.items():
            text = text.replace(before, after)
        text = text.replace("`aread()`", "`read()`").replace("for coroutines", "for threads")
        return text.replace("for one event loop", "for any number of threads")
    return text


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return the text between two places: blanks, and line ends that are no tokens."""
    if start >= end:
        return ""
    (row, column), (last, until) = start, end
    if row == last:
        return lines[row - 1][column:until]
    middle = "".join(lines[row : last - 1])
    return lines[row - 1][column:] + middle + (lines[last - 1][:until] if last <= len(lines) else "")


def main() -> int:
    """Write or compare all files; return the exit status."""
    stale = False
    package, tests = ROOT / "client" / "src" / "retriever_client", ROOT / "tests"
    for path in (*sorted((package / "_async").glob("*.py")), *sorted(tests.glob("*/*client*_async.py"))):
        text = made_of(path.read_text(encoding="utf-8"))
        target = Path(str(path).replace("_async", "_sync"))
        if "--check" in sys.argv:
            is_same = target.exists() and target.read_text(encoding="utf-8") == text
            stale = stale or not is_same
            if not is_same:
                print(f"{target} is not what make_sync.py makes; run it.")
        else:
            target.parent.mkdir(exist_ok=True)
            target.write_text(text, encoding="utf-8")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
