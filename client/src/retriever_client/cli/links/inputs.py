"""The documents that inputs name, read one at a time: memory holds one, whatever their number.

What cannot be read is told with its name (`Unread`) and takes nothing else with it. What makes an input
senseless as a whole (no such git revision) is an error.
"""

import codecs
import gzip
import os
import re
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from glob import has_magic, iglob
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from retriever_client.cli.links.document import Format, LinkKind
from retriever_client.cli.links.extraction import Extraction, extract, format_of_name
from retriever_client.cli.links.sitemap import NoSitemap

MIB = 1 << 20
# Markup written by hand is small, and a hostile megabyte of it takes its parser some five seconds. The last
# is the protocol's.
MOST_BYTES = {
    Format.MARKDOWN: 4 * MIB,
    Format.REST: 16 * MIB,
    Format.HTML: 16 * MIB,
    Format.TEXT: 16 * MIB,
    Format.SITEMAP: 50 * MIB,
}
# Indexes of sitemaps within an index.
DEEPEST_SITEMAPS = 2
# Folders of other people's documents.
_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__"})
_GIT_SECONDS = 60
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(
    rb"""<\?xml[^>]{0,200}\bencoding\s*=\s*["']([\w.:-]{1,40})"""
    rb"""|<meta[^>]{0,200}\bcharset\s*=\s*["']?([\w.:-]{1,40})""",
    re.IGNORECASE,
)
# Encodings of texts that a document may name. Those of two or four bytes have a mark or are named by the
# server: what says so in ASCII is none of them.
_NAMED_ENCODING = re.compile(r"(?:utf-8|ascii|iso8859|cp\d|koi8|gb|big5|shift_jis|euc|mac|tis)")
_SERVED_ENCODING = re.compile(rf"{_NAMED_ENCODING.pattern}|utf-16|utf-32")
_SITEMAP_ROOT = re.compile(
    r"\A\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<(?:\w+:)?(?:urlset|sitemapindex)\b", re.DOTALL
)
_HTML_ROOT = re.compile(
    r"\A\s*(?:<!--(?:(?!-->).)*-->\s*)*(?:<!doctype\s+html|<html)\b", re.DOTALL | re.IGNORECASE
)
_TYPES = {
    "text/html": Format.HTML,
    "application/xhtml+xml": Format.HTML,
    "text/markdown": Format.MARKDOWN,
    "text/x-rst": Format.REST,
    "text/prs.fallenstein.rst": Format.REST,
}


class InputUnusable(Exception):
    """An input makes no sense as a whole; the message says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document is: a file, a URL, or standard input (neither)."""

    name: str
    path: Path | None = None
    url: str | None = None
    written_in: Format | None = None


@dataclass(frozen=True, slots=True)
class Unread:
    """A document that was not read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """A document and its links; `notes` say what a person may want to know of how it was read.

    `url` is where it came from after redirects: what its links start from.
    """

    name: str
    written_in: Format
    extraction: Extraction
    path: Path | None = None
    url: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """What a server answered with: `url` after redirects, `content_type` with its parameters."""

    url: str
    content_type: str
    body: bytes


FetchPage = Callable[[str, int], Page]
"""Gets the page of a URL, of so many bytes at most; raises OSError with words for people."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How documents are read.

    Attributes:
        root: The folder that names are relative to, and whose repository git is asked about.
        written_in: The format of documents whose name does not say it; text for files named by themselves.
        most_bytes: How long a document of each format may be, unpacked.
        fetch: Gets pages; without it URLs are not read.
        hidden: Whether folders are searched for files and folders that begin with a dot.
    """

    root: Path = field(default_factory=Path)
    written_in: Format | None = None
    most_bytes: dict[Format, int] = field(default_factory=lambda: dict(MOST_BYTES))
    fetch: FetchPage | None = None
    stdin: BinaryIO | None = None
    hidden: bool = False


def places(inputs: Iterable[str], reading: Reading) -> Iterator[Place | Unread]:
    """Yield where the documents are that inputs name, each once: URLs, files, folders, patterns, `-`.

    Folders are searched for names that say their format. Symbolic links are followed, round and round never.
    """
    seen: set[tuple[int, int]] = set()
    for name in inputs:
        if name == "-":
            yield Place("-", written_in=reading.written_in)
        elif name.lower().startswith(("http://", "https://")):
            yield Place(name, url=name)
        else:
            for place in _local_places(name, reading):
                if isinstance(place, Unread) or place.path is None or _is_new(place.path, seen):
                    yield place


def names_from(stream: Iterable[str]) -> Iterator[str]:
    """Yield the inputs that a list names, one a line; empty lines and those that begin with `#` name none."""
    for line in stream:
        name = line.strip()
        if name and not name.startswith("#"):
            yield name


def tracked_files(root: Path) -> Iterator[Place]:
    """Yield the documents that git tracks in a folder and below.

    Raises:
        InputUnusable: It is in no repository, or there is no git.
    """
    yield from _places_of_git(root, _git(root, "ls-files", "-z", "--cached", "--", "."))


def changed_files(root: Path, since: str) -> Iterator[Place]:
    """Yield the documents in a folder and below that differ from where HEAD left a revision.

    Committed or not, and also those that git does not know yet and does not ignore.

    Raises:
        InputUnusable: There is no such revision, no repository, or no git.
    """
    known = _git(
        root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{since}^{{commit}}", what=since
    )
    base = _git(root, "merge-base", known.decode().strip(), "HEAD", what=since).decode().strip()
    changed = _git(root, "diff", "--name-only", "-z", "--relative", "--diff-filter=d", base, "--", ".")
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", ".")
    yield from _places_of_git(root, changed + new)


def read(found: Iterable[Place | Unread], reading: Reading) -> Iterator[Source | Unread]:
    """Yield each document with its links, or why it has none."""
    for place in found:
        if isinstance(place, Unread):
            yield place
            continue
        try:
            yield _read(place, reading)
        except NoSitemap as error:
            yield Unread(place.name, f"no sitemap: {error}")
        except OSError as error:
            yield Unread(place.name, error.strerror or str(error))


def read_sitemap(where: str, reading: Reading, *, depth: int = 0) -> Iterator[Source | Unread]:
    """Yield a sitemap, of a URL or a file, and those that it leads to, two indexes deep."""
    url = where if where.lower().startswith(("http://", "https://")) else None
    place = Place(where, None if url else reading.root / where, url, Format.SITEMAP)
    for source in read([place], reading):
        yield source
        if isinstance(source, Unread):
            continue
        for link in source.extraction.links:
            if link.kind is not LinkKind.SITEMAP:
                continue
            if depth == DEEPEST_SITEMAPS:
                yield Unread(link.url, f"indexes of sitemaps are followed {DEEPEST_SITEMAPS} deep")
            elif not _may_lead_to(source.url, link.url):
                yield Unread(link.url, "a sitemap leads to sitemaps of its own host alone")
            else:
                yield from read_sitemap(link.url, reading, depth=depth + 1)


def decode(body: bytes, declared: str | None = None) -> tuple[str, str | None]:
    """Return the text of a document and, when its encoding is a guess, words that say so.

    A byte order mark decides, then what is declared, by the server or in the document; then UTF-8; then
    Latin-1, in which every byte means something.
    """
    for mark, encoding in _BOMS:
        if body.startswith(mark):
            text = body[len(mark) :].decode(encoding, "replace")
            return text, f"not all of it is {encoding}" if "\ufffd" in text else None
    match = _DECLARED.search(body[:2048])
    named = (match[1] or match[2]).decode("ascii", "replace") if match else ""
    for encoding, allowed in (
        (declared or "", _SERVED_ENCODING),
        (named, _NAMED_ENCODING),
        ("utf-8", _NAMED_ENCODING),
    ):
        try:
            if allowed.match(codecs.lookup(encoding).name):
                return body.decode(encoding), None
        except (LookupError, UnicodeError):
            continue
    return body.decode("latin-1"), "read as Latin-1: it is not UTF-8"


def anchors_of(path: Path) -> frozenset[str] | None:
    """Return what a fragment may name in a file, None when its format has no such thing.

    Raises:
        OSError: It cannot be read, or is too long.
    """
    written_in = format_of_name(path.name)
    if written_in in {None, Format.TEXT, Format.SITEMAP}:
        return None
    source = _read(Place(path.name, path, written_in=written_in), Reading())
    if isinstance(source, Unread):
        raise OSError(source.reason)
    return source.extraction.anchors


def _may_lead_to(index: str | None, sitemap: str) -> bool:
    """Whether an index may lead to a sitemap: the protocol keeps it to its host."""
    try:
        there = urlsplit(sitemap)
        here = urlsplit(index or sitemap)
    except ValueError:
        return False
    return there.scheme.lower() in {"http", "https"} and there.hostname == here.hostname


def _local_places(name: str, reading: Reading) -> Iterator[Place | Unread]:
    path = reading.root / name
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if has_magic(name):
            yield from _matches(name, reading)
        else:
            yield Unread(name, getattr(error, "strerror", None) or str(error))
        return
    if stat.S_ISDIR(mode):
        yield from _search(path, name, reading, frozenset())
    else:
        yield Place(name, path, written_in=format_of_name(name) or reading.written_in or Format.TEXT)


def _matches(pattern: str, reading: Reading) -> Iterator[Place | Unread]:
    any_match = False
    for name in iglob(pattern, root_dir=reading.root, recursive=True, include_hidden=reading.hidden):  # noqa: PTH207
        path = reading.root / name
        if path.is_file():
            any_match = True
            yield Place(name, path, written_in=format_of_name(name) or reading.written_in or Format.TEXT)
    if not any_match:
        yield Unread(pattern, "no file matches")


def _search(
    folder: Path, name: str, reading: Reading, above: frozenset[tuple[int, int]]
) -> Iterator[Place | Unread]:
    """Yield the documents in a folder and below, by name; `above` are the folders it is in."""
    try:
        identity = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield Unread(name, error.strerror or str(error))
        return
    here = (identity.st_dev, identity.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name in _SKIPPED_FOLDERS or (entry.name.startswith(".") and not reading.hidden):
            continue
        whole = os.path.join(name, entry.name)  # noqa: PTH118
        try:
            if entry.is_dir():
                yield from _search(Path(entry.path), whole, reading, above | {here})
            elif written_in := format_of_name(entry.name):
                yield Place(whole, Path(entry.path), written_in=written_in)
        except OSError as error:
            yield Unread(whole, error.strerror or str(error))


def _is_new(path: Path, seen: set[tuple[int, int]]) -> bool:
    try:
        identity = path.stat()
    except OSError:
        return True
    known = (identity.st_dev, identity.st_ino) in seen
    seen.add((identity.st_dev, identity.st_ino))
    return not known


def _read(place: Place, reading: Reading) -> Source | Unread:
    notes: list[str] = []
    declared, url, written_in = None, place.url, place.written_in
    most = reading.most_bytes[written_in or Format.HTML]
    if place.url is not None:
        if reading.fetch is None:
            return Unread(place.name, "pages are not read here")
        page = reading.fetch(place.url, most)
        body, url = page.body, page.url
        kind, declared = _content_type(page.content_type)
        written_in = written_in or _format_of_page(kind, url)
    elif place.path is not None:
        body = _read_file(place.path, most)
    else:
        body = (reading.stdin or sys.stdin.buffer).read(most + 1)
    if written_in is Format.SITEMAP and body.startswith(b"\x1f\x8b"):
        body = _unpacked(body, most)
    if len(body) > most:
        return Unread(place.name, f"longer than {most:,} bytes")
    if b"\x00" in body[:8192] and not body.startswith(tuple(mark for mark, _ in _BOMS)):
        return Unread(place.name, "not text: it has zero bytes")
    text, note = decode(body, declared)
    if note:
        notes.append(note)
    if written_in is None:
        written_in = _format_of_text(text[:4096])
    # Standard input and pages of other formats are told to be shorter only now.
    if len(body) > reading.most_bytes[written_in]:
        return Unread(place.name, f"longer than {reading.most_bytes[written_in]:,} bytes")
    return Source(place.name, written_in, extract(text, written_in), place.path, url, tuple(notes))


def _read_file(path: Path, most: int) -> bytes:
    # A pipe without a writer would never open, and a device never end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        return file.read(most + 1)


def _unpacked(body: bytes, most: int) -> bytes:
    try:
        with gzip.open(BytesIO(body)) as file:
            return file.read(most + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise NoSitemap(f"its gzip is broken: {error}") from error


def _content_type(value: str) -> tuple[str, str | None]:
    kind, _, parameters = value.partition(";")
    charset = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", parameters, re.IGNORECASE)
    return kind.strip().lower(), charset[1] if charset else None


def _format_of_page(kind: str, url: str) -> Format | None:
    named = format_of_name(urlsplit(url).path)
    if kind in _TYPES:
        return _TYPES[kind]
    # Servers send Markdown and reStructuredText as plain text.
    return named if named is not Format.HTML else None


def _format_of_text(start: str) -> Format:
    if _SITEMAP_ROOT.match(start):
        return Format.SITEMAP
    return Format.HTML if _HTML_ROOT.match(start) else Format.TEXT


def _places_of_git(root: Path, names: bytes) -> Iterator[Place]:
    for name in dict.fromkeys(os.fsdecode(part) for part in names.split(b"\0") if part):
        written_in = format_of_name(name)
        # A file may be tracked and gone, or be another repository's folder.
        if written_in and (root / name).is_file():
            yield Place(name, root / name, written_in=written_in)


def _git(root: Path, *arguments: str, what: str | None = None) -> bytes:
    command = ["git", "-C", os.fspath(root), "-c", "core.quotePath=false", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_GIT_SECONDS, check=False)
    except FileNotFoundError as error:
        raise InputUnusable("there is no git on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise InputUnusable(f"git did not answer within {_GIT_SECONDS} s") from error
    if done.returncode:
        said = (
            done.stderr.decode("utf-8", "replace").strip()
            or f"git knows no revision {what!r} that HEAD comes from"
        )
        raise InputUnusable(said.splitlines()[-1][:300])
    return done.stdout
