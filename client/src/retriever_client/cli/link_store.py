"""The links of one run and what became of them, on disk: memory stays the same, however many there are.

Each distinct URL is a target, asked once; a link is a place where it is written. It knows neither documents
nor the service.
"""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, unquote

from retriever_client.cli.outcomes import FRAGMENT_MISSING, Answer, Outcome

# What the service takes for one check; what is more is not judged.
MOST_FRAGMENTS: Final = 500
MOST_FRAGMENT_LENGTH: Final = 2_000
MOST_FRAGMENTS_LENGTH: Final = 50_000
# What a job of the service may have as its `ref`.
MOST_REF_LENGTH: Final = 512
_ROWS_AT_ONCE: Final = 1_000
_PLACE: Final = re.compile(r"(.+?):(\d+):(\d+)(?:#(\S+))?(?: |\Z)")

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE files (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE targets (
    id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, asked INTEGER NOT NULL,
    outcome TEXT, reason TEXT, explanation TEXT, status INTEGER, final_url TEXT, job_id TEXT
);
CREATE TABLE asks (number INTEGER PRIMARY KEY, target_id INTEGER NOT NULL);
CREATE TABLE fragments (
    target_id INTEGER NOT NULL, fragment TEXT NOT NULL, passed INTEGER,
    PRIMARY KEY (target_id, fragment)
) WITHOUT ROWID;
CREATE TABLE links (
    id INTEGER PRIMARY KEY, file_id INTEGER NOT NULL, line INTEGER NOT NULL, column INTEGER NOT NULL,
    kind TEXT NOT NULL, text TEXT NOT NULL, url TEXT NOT NULL, target_id INTEGER NOT NULL, fragment TEXT,
    known INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE baseline (file TEXT NOT NULL, url TEXT NOT NULL, PRIMARY KEY (file, url)) WITHOUT ROWID;
CREATE VIEW checked AS
SELECT links.id, files.name AS file, line, column, kind, text, links.url AS url, known,
    passed IS 0 AND outcome IN ('ok', 'redirect') AS misses_fragment,
    CASE WHEN passed IS 0 AND outcome IN ('ok', 'redirect') THEN 'broken'
        ELSE coalesce(outcome, 'unfinished') END AS outcome,
    reason, explanation, status, final_url, job_id
FROM links JOIN files ON files.id = file_id JOIN targets ON targets.id = links.target_id
LEFT JOIN fragments USING (target_id, fragment);
"""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a link is written: line and column from 1, columns in characters."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A URL to ask for: `number` counts from 1 and is its place among all; `ref` says where it is written."""

    number: int
    url: str
    ref: str
    fragments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckedLink:
    """A link and what became of it.

    Attributes:
        kind: What it is for, such as `link` or `image`; `document` for one that was not read.
        text: As it is written.
        url: As it was asked for, or the path of a file, with its fragment.
        final_url: Where it leads, if it is elsewhere.
        is_known: Whether the baseline has it.
        is_failure: Whether the run fails by it.
    """

    place: Position
    kind: str
    text: str
    url: str
    outcome: Outcome
    reason: str | None
    explanation: str | None
    status: int | None
    final_url: str | None
    job_id: str | None
    is_known: bool
    is_failure: bool


class LinkStore:
    """The links of one run. Close it, or use it as a context: then it is gone."""

    def __init__(self) -> None:
        # Without a name SQLite keeps it in a file of its own, which nobody else sees.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_TABLES)
        self._database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

    def add_asked(
        self, place: Position, kind: str, text: str, url: str, fragment: str | None, *, judged: bool
    ) -> None:
        """Add a link whose target is asked about; whoever has the same URL shares its answer.

        Args:
            judged: Whether the page is to be searched for the fragment.
        """
        url = _storable(url)
        fragment = None if fragment is None else _storable(fragment)
        target_id = self._target(url, asked=True)
        whole = url if fragment is None else f"{url}#{fragment}"
        self._add(place, kind, text, url=whole, target_id=target_id, fragment=fragment)
        if judged and fragment:
            self._database.execute(
                "INSERT OR IGNORE INTO fragments (target_id, fragment) VALUES (?, ?)", (target_id, fragment)
            )

    def add_answered(self, place: Position, kind: str, text: str, url: str, answer: Answer) -> None:
        """Add a link whose answer is there already: of a file, or of what cannot be asked."""
        url = _storable(url)
        target_id = self._target(url, asked=False)
        self._record(target_id, answer)
        self._add(place, kind, text, url=url, target_id=target_id, fragment=None)

    def count_asked(self) -> int:
        """Return how many distinct URLs are asked about."""
        return self._count("SELECT count(*) FROM targets WHERE asked")

    def asks(self) -> Iterator[Ask]:
        """Number what is asked about, and yield it in the order in which it was found."""
        # Made when all links are there: it takes less time then.
        self._database.execute("CREATE INDEX IF NOT EXISTS links_by_target ON links (target_id)")
        self._database.execute(
            "INSERT OR IGNORE INTO asks SELECT row_number() OVER (ORDER BY id), id FROM targets WHERE asked"
        )
        judges = bool(self._count("SELECT EXISTS (SELECT 1 FROM fragments)"))
        for number, target_id, url in self._rows(
            "SELECT number, target_id, url FROM asks JOIN targets ON targets.id = target_id ORDER BY number"
        ):
            fragments = self._fragments(target_id) if judges else ()
            yield Ask(number, url, self._ref(target_id), fragments)

    def record(self, number: int, answer: Answer) -> None:
        """Keep what was found out about an ask."""
        found = self._database.execute("SELECT target_id FROM asks WHERE number = ?", (number,)).fetchone()
        if found is not None:
            self._record(found[0], answer)

    def record_url(self, url: str, answer: Answer) -> None:
        """Keep what was found out about a URL."""
        found = self._database.execute("SELECT id FROM targets WHERE url = ?", (url,)).fetchone()
        if found is not None:
            self._record(found[0], answer)

    def record_the_rest(self, first: int, last: int, answer: Answer) -> None:
        """Keep one answer for all asks of [first, last] that have none."""
        self._database.execute(
            "UPDATE targets SET outcome = ?, reason = ?, explanation = ? WHERE outcome IS NULL AND id IN "
            "(SELECT target_id FROM asks WHERE number BETWEEN ? AND ?)",
            (answer.outcome, answer.reason, answer.explanation, first, last),
        )

    def mark_known(self, known: Iterable[tuple[str, str]]) -> None:
        """Mark the links that a baseline has, by file and URL."""
        self._database.executemany("INSERT OR IGNORE INTO baseline VALUES (?, ?)", known)
        self._database.execute(
            "UPDATE links SET known = 1 WHERE EXISTS (SELECT 1 FROM baseline JOIN files ON files.name = "
            "baseline.file WHERE files.id = links.file_id AND baseline.url = links.url)"
        )

    def count_mended(self, failing: Sequence[Outcome]) -> int:
        """Return how many of the baseline do not fail any more, or are gone."""
        query = (
            "SELECT (SELECT count(*) FROM baseline) - (SELECT count(*) FROM (SELECT DISTINCT file, url "
            "FROM checked WHERE known AND outcome IN (SELECT value FROM json_each(?))))"
        )
        return self._count(query, json.dumps(failing))

    def counts(self) -> Counter[tuple[Outcome, bool]]:
        """Return how many links ended how, and whether the baseline has them."""
        rows = self._database.execute("SELECT outcome, known, count(*) FROM checked GROUP BY 1, 2")
        return Counter({(Outcome(outcome), bool(known)): count for outcome, known, count in rows})

    def count_links(self) -> int:
        """Return how many links there are."""
        return self._count("SELECT count(*) FROM links")

    def count_files(self) -> int:
        """Return how many documents have links."""
        return self._count("SELECT count(*) FROM files")

    def count_elsewhere(self) -> int:
        """Return how many good links lead elsewhere."""
        query = "SELECT count(*) FROM checked WHERE final_url IS NOT NULL AND outcome IN ('ok', 'redirect')"
        return self._count(query)

    def count_unjudged(self) -> int:
        """Return how many fragments were not looked for, though they should have been."""
        query = (
            "SELECT count(*) FROM fragments JOIN targets ON targets.id = target_id "
            "WHERE passed IS NULL AND outcome IN ('ok', 'redirect')"
        )
        return self._count(query)

    def links(
        self, failing: Sequence[Outcome], outcomes: Sequence[Outcome] | None = None
    ) -> Iterator[CheckedLink]:
        """Yield links by file, line and column: all, or those that ended in one of some ways."""
        for row in self._rows(
            "SELECT file, line, column, kind, text, url, outcome, reason, explanation, status, final_url, "
            "job_id, known, misses_fragment FROM checked "
            "WHERE outcome IN (SELECT value FROM json_each(?)) ORDER BY file, line, column, id",
            json.dumps(list(Outcome) if outcomes is None else outcomes),
        ):
            outcome, known, misses = Outcome(row[6]), bool(row[12]), bool(row[13])
            reason, explanation = ("fragment_missing", FRAGMENT_MISSING) if misses else (row[7], row[8])
            yield CheckedLink(
                place=Position(row[0], row[1], row[2]),
                kind=row[3],
                text=row[4],
                url=row[5],
                outcome=outcome,
                reason=reason,
                explanation=explanation,
                status=row[9],
                final_url=row[10],
                job_id=row[11],
                is_known=known,
                is_failure=outcome in failing and not known,
            )

    def _target(self, url: str, *, asked: bool) -> int:
        self._database.execute("INSERT OR IGNORE INTO targets (url, asked) VALUES (?, ?)", (url, asked))
        return int(self._database.execute("SELECT id FROM targets WHERE url = ?", (url,)).fetchone()[0])

    def _add(
        self, place: Position, kind: str, text: str, *, url: str, target_id: int, fragment: str | None
    ) -> None:
        name = _storable(place.file)
        self._database.execute("INSERT OR IGNORE INTO files (name) VALUES (?)", (name,))
        self._database.execute(
            "INSERT INTO links (file_id, line, column, kind, text, url, target_id, fragment) "
            "SELECT id, ?, ?, ?, ?, ?, ?, ? FROM files WHERE name = ?",
            (place.line, place.column, kind, _storable(text), url, target_id, fragment, name),
        )

    def _record(self, target_id: int, answer: Answer) -> None:
        self._database.execute(
            "UPDATE targets SET outcome = ?, reason = ?, explanation = ?, status = ?, final_url = ?, "
            "job_id = ? WHERE id = ?",
            (
                answer.outcome,
                answer.reason,
                answer.explanation,
                answer.status,
                answer.final_url,
                answer.job_id,
                target_id,
            ),
        )
        if answer.fragments:
            self._database.executemany(
                "UPDATE fragments SET passed = ? WHERE target_id = ? AND fragment = ?",
                ((passed, target_id, fragment) for fragment, passed in answer.fragments.items()),
            )

    def _fragments(self, target_id: int) -> tuple[str, ...]:
        rows = self._database.execute(
            "SELECT fragment FROM fragments WHERE target_id = ? AND length(fragment) <= ? LIMIT ?",
            (target_id, MOST_FRAGMENT_LENGTH, MOST_FRAGMENTS),
        )
        chosen: list[str] = []
        room = MOST_FRAGMENTS_LENGTH
        for (fragment,) in rows:
            room -= len(fragment)
            if room < 0:
                break
            chosen.append(fragment)
        return tuple(chosen)

    def _ref(self, target_id: int) -> str:
        """Return where a URL is written, as far as a job has room for it; `places_of_ref` reads it."""
        rows = self._database.execute(
            "SELECT name, line, column, fragments.fragment FROM links JOIN files ON files.id = file_id "
            "LEFT JOIN fragments USING (target_id, fragment) WHERE target_id = ? ORDER BY links.id LIMIT 50",
            (target_id,),
        )
        ref = ""
        for name, line, column, fragment in rows:
            place = _printable(f"{name}:{line}:{column}")
            if fragment is not None:
                place += f"#{quote(fragment)}"
            longer = f"{ref} {place}" if ref else place
            if len(longer) > MOST_REF_LENGTH:
                break
            ref = longer
        return ref

    def _count(self, query: str, *values: str) -> int:
        return int(self._database.execute(query, values).fetchone()[0])

    def _rows(self, query: str, *values: str) -> Iterator[tuple[Any, ...]]:
        cursor = self._database.execute(query, values)
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            yield from rows


def places_of_ref(ref: str) -> list[tuple[Position, str | None]]:
    """Return where a `ref` says that a URL is written, and the fragment that is meant there."""
    return [
        (Position(match[1], int(match[2]), int(match[3])), unquote(match[4]) if match[4] else None)
        for match in _PLACE.finditer(ref)
    ]


def _storable(text: str) -> str:
    """Return a text without lone surrogates, which a name of a file may have."""
    return text.encode("utf-8", "replace").decode()


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
