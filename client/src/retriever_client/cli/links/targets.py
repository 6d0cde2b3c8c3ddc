"""What a link leads to, seen from its document: a page of the web, a file here, or nothing that we ask about.

Pure, but for `FileChecks`, which looks whether files are there and what is in them.
"""

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from retriever_client.cli.links.document import Link
from retriever_client.cli.links.inputs import Source, anchors_of

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_WEB = frozenset({"http", "https"})
# A marker that a generator replaces, and no URL: `{{ page.url }}`, `<%= x %>`, `${BASE}/x`, `%s`.
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{%|<%|\$\{|\$\(")
_TEXT_FRAGMENT = ":~:"
# The top of a page, which every browser knows.
_TOP = frozenset({"", "top"})
_DOCUMENTS_KEPT = 256


class Skipped(StrEnum):
    """Why a link is not asked about; each is counted."""

    MAIL = "mail"
    PHONE = "phone"
    DATA = "data"
    SCRIPT = "script"
    SCHEME = "scheme"  # Any other that no page of the web has.
    PLACEHOLDER = "placeholder"
    EXCLUDED = "excluded"
    NO_BASE = "no base"  # Relative, and nothing says to what.


_SKIPPED_SCHEMES = {
    "mailto": Skipped.MAIL,
    "tel": Skipped.PHONE,
    "sms": Skipped.PHONE,
    "callto": Skipped.PHONE,
    "data": Skipped.DATA,
    "blob": Skipped.DATA,
    "javascript": Skipped.SCRIPT,
    "about": Skipped.SCRIPT,
}


@dataclass(frozen=True, slots=True)
class Web:
    """A page of the web. Its fragment is apart, because one request answers for all of them."""

    url: str
    fragment: str | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A file on this machine, and what of it is meant."""

    path: Path
    fragment: str | None = None


@dataclass(frozen=True, slots=True)
class Invalid:
    """Something that is no URL, and why."""

    reason: str


Target = Web | File | Skipped | Invalid


@dataclass(frozen=True, slots=True)
class Rules:
    """Which links are asked about, and what relative ones start from.

    Attributes:
        include: With any, only URLs in which one of them is found.
        exclude: URLs in which one of them is found are not asked about, even when included.
        base_url: The URL under which the files of `root` are served: relative links of files are asked for
        there. root: The folder that a path with a leading slash starts from, without a base URL.
    """

    include: Sequence[re.Pattern[str]] = ()
    exclude: Sequence[re.Pattern[str]] = ()
    base_url: str | None = None
    root: Path | None = None


def target_of(link: Link, source: Source, rules: Rules) -> Target:
    """Return what a link of a document leads to."""
    url = link.url.strip()
    if _PLACEHOLDER.search(url):
        return Skipped.PLACEHOLDER
    scheme = _SCHEME.match(url)
    # One letter is a drive of Windows.
    if scheme and len(scheme[1]) > 1 and scheme[1].lower() not in {*_WEB, "file"}:
        return _SKIPPED_SCHEMES.get(scheme[1].lower(), Skipped.SCHEME)
    try:
        target = _resolved(url, source, rules)
    except ValueError as error:
        return Invalid(str(error))
    if isinstance(target, Web | File) and not _is_included(_name(target), rules):
        return Skipped.EXCLUDED
    return target


def is_top(fragment: str | None) -> bool:
    """Whether a fragment means the whole page, so that there is nothing to look for."""
    return fragment is None or fragment.lower() in _TOP


def _resolved(url: str, source: Source, rules: Rules) -> Target:
    base = _base(source, rules)
    if base:
        whole = urljoin(base, url)
    elif _SCHEME.match(url):
        whole = url
    elif url.startswith("//"):
        whole = f"https:{url}"
    else:
        return _local(url, source, rules)
    parts = urlsplit(whole)
    if parts.scheme.lower() == "file" and parts.netloc.lower() not in {"", "localhost"}:
        return Skipped.SCHEME
    if parts.scheme.lower() == "file":
        return File(Path(unquote(parts.path)), _fragment(parts.fragment, whole))
    if parts.scheme.lower() not in _WEB:
        return Skipped.SCHEME
    if not parts.hostname:
        return Invalid("it names no host")
    # It is looked at here, because it raises what is said to people.
    _ = parts.port
    return Web(whole.partition("#")[0], _fragment(parts.fragment, whole))


def _base(source: Source, rules: Rules) -> str | None:
    """Return the URL that relative links of a document start from, None when they lead to files."""
    at = source.url
    if at is None and rules.base_url is not None:
        at = rules.base_url
        if source.path is not None and rules.root is not None:
            inside = os.path.relpath(source.path, rules.root).replace(os.sep, "/")
            at = urljoin(rules.base_url.rstrip("/") + "/", inside) if not inside.startswith("../") else at
    own = source.extraction.base
    if own and at:
        return urljoin(at, own)
    return own if own and urlsplit(own).scheme.lower() in _WEB else at


def _local(url: str, source: Source, rules: Rules) -> Target:
    path, _, fragment = url.partition("#")
    # The path ends at the query, which asks a server.
    path = unquote(path.partition("?")[0])
    if "\0" in path:
        return Invalid("it has a zero byte")
    if source.path is None:
        return Skipped.NO_BASE
    if not path:
        return File(source.path, _fragment(fragment, url))
    if path.startswith("/"):
        if rules.root is None:
            return Skipped.NO_BASE
        return File(rules.root / path.lstrip("/"), _fragment(fragment, url))
    own = source.extraction.base
    folder = source.path.parent
    if own:
        folder = (folder / unquote(own)) if own.endswith("/") else (folder / unquote(own)).parent
    return File(Path(os.path.normpath(folder / path)), _fragment(fragment, url))


def _fragment(fragment: str, url: str) -> str | None:
    return unquote(fragment.partition(_TEXT_FRAGMENT)[0]) if "#" in url else None


def _name(target: Web | File) -> str:
    name = target.url if isinstance(target, Web) else target.path.as_posix()
    return name if target.fragment is None else f"{name}#{target.fragment}"


def _is_included(name: str, rules: Rules) -> bool:
    if rules.include and not any(pattern.search(name) for pattern in rules.include):
        return False
    return not any(pattern.search(name) for pattern in rules.exclude)


class FileVerdict(StrEnum):
    """What is to be said of a link to a file."""

    OK = "ok"
    MISSING = "missing"
    MISSING_FRAGMENT = "missing fragment"
    UNREADABLE = "unreadable"


@dataclass(slots=True)
class FileChecks:
    """Looks at the files that links lead to, each once, as long as it is among the last looked at.

    Attributes:
        read: Returns the anchors of a file, None for one that has none to look for (an image); raises
        OSError. index_files: What stands for a folder; without any a folder is enough. suffixes: What may be
        added to a path that is no file, as servers do: `.html`.
    """

    read: Callable[[Path], frozenset[str] | None] = anchors_of
    index_files: Sequence[str] = ()
    suffixes: Sequence[str] = ()
    fragments: bool = True
    _anchors: OrderedDict[Path, frozenset[str] | None] = field(default_factory=OrderedDict)

    def check(self, target: File) -> FileVerdict:
        """Return whether the file is there, and in it what the fragment names."""
        path = self._file(target.path)
        if path is None:
            return FileVerdict.MISSING
        fragment = target.fragment
        if not self.fragments or fragment is None or is_top(fragment) or path.is_dir():
            return FileVerdict.OK
        try:
            anchors = self._anchors_of(path)
        except OSError:
            return FileVerdict.UNREADABLE
        if anchors is None or fragment in anchors or fragment.lower() in anchors:
            return FileVerdict.OK
        return FileVerdict.MISSING_FRAGMENT

    def _file(self, path: Path) -> Path | None:
        try:
            if path.is_dir():
                if not self.index_files:
                    return path
                return next((path / name for name in self.index_files if (path / name).is_file()), None)
            if path.exists():
                return path
            return next(
                (each for suffix in self.suffixes if (each := Path(f"{path}{suffix}")).is_file()), None
            )
        except OSError:  # A name that is too long.
            return None

    def _anchors_of(self, path: Path) -> frozenset[str] | None:
        if path not in self._anchors:
            self._anchors[path] = self.read(path)
            if len(self._anchors) > _DOCUMENTS_KEPT:
                self._anchors.popitem(last=False)
        return self._anchors[path]
