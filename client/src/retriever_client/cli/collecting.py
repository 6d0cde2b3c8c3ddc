"""The links of the documents that a command line names: what each leads to, told one by one."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from retriever_client.cli.link_store import Position
from retriever_client.cli.links.document import Format, Link
from retriever_client.cli.links.inputs import (
    InputUnusable,
    Reading,
    Source,
    Unread,
    changed_files,
    names_from,
    places,
    read,
    read_sitemap,
    tracked_files,
)
from retriever_client.cli.links.pages import fetch_page
from retriever_client.cli.links.targets import File, Rules, Target, Web, target_of
from retriever_client.cli.output import say
from retriever_client.cli.parameters import Pattern, several
from retriever_client.errors import RetrieverError

NOTHING_NAMED = (
    "Name what to look at: files, folders, URLs, - for stdin, --sitemap, --git or --changed-since."
)
input_options: Final = several(
    click.argument("inputs", nargs=-1, metavar="[INPUT]..."),
    click.option(
        "--files-from",
        type=click.File("r", encoding="utf-8"),
        help="A list of inputs, one a line; - is stdin.",
    ),
    click.option("--sitemap", multiple=True, metavar="URL", help="The pages of a sitemap, or of an index."),
    click.option("--git", is_flag=True, help="The documents that git tracks here and below."),
    click.option("--changed-since", metavar="REVISION", help="Those that differ from where HEAD left it."),
    click.option(
        "--format",
        "written_in",
        type=click.Choice([each.value for each in Format]),
        help="Of inputs whose name does not say it.",
    ),
    click.option("--hidden", is_flag=True, help="Search folders for names that begin with a dot, too."),
    click.option("--include", type=Pattern(), multiple=True, help="Only URLs in which it is found."),
    click.option("--exclude", type=Pattern(), multiple=True, help="No URL in which it is found."),
    click.option(
        "--base-url", help="Where the files of --root-dir are served: asks there for relative links."
    ),
    click.option(
        "--root-dir",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        help="What a link with a leading slash starts from.",
    ),
    click.option("--allow-empty", is_flag=True, help="Finding no link is good."),
)
"""Gives a command the arguments that say which links are meant; `Inputs` takes them."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Which documents are read, and which of their links count."""

    inputs: tuple[str, ...]
    files_from: Iterable[str] | None
    sitemap: tuple[str, ...]
    git: bool
    changed_since: str | None
    written_in: str | None
    hidden: bool
    include: tuple[Any, ...]
    exclude: tuple[Any, ...]
    base_url: str | None
    root_dir: Path | None
    allow_empty: bool

    @property
    def is_empty(self) -> bool:
        """Whether they name nothing."""
        return not (self.inputs or self.files_from or self.sitemap or self.git or self.changed_since)

    def rules(self) -> Rules:
        """Return which links count, and what relative ones start from."""
        root = self.root_dir or (Path() if self.base_url else None)
        return Rules(self.include, self.exclude, self.base_url, root)

    def sources(self, stdin: BinaryIO) -> Iterator[Source | Unread]:
        """Yield the documents, one at a time, each once.

        Raises:
            RetrieverError: An input makes no sense as a whole, such as a revision that is not there.
        """
        reading = Reading(
            written_in=Format(self.written_in) if self.written_in else None,
            fetch=fetch_page,
            stdin=stdin,
            hidden=self.hidden,
        )
        named = places(chain(self.inputs, names_from(self.files_from or ())), reading)
        tracked = tracked_files(reading.root) if self.git else ()
        changed = changed_files(reading.root, self.changed_since) if self.changed_since else ()
        seen: set[str] = set()
        try:
            for source in chain(
                read(chain(named, tracked, changed), reading),
                *(read_sitemap(each, reading) for each in self.sitemap),
            ):
                name = name_of(source)
                if name not in seen:
                    seen.add(name)
                    yield source
        except InputUnusable as error:
            raise RetrieverError(str(error)) from error


@dataclass(slots=True)
class Collected:
    """What was found so far; the links themselves are handed on at once.

    Attributes:
        documents: How many were read.
        skipped: How many links were not asked about, by why.
        ignored: How many links were taken out by comments.
    """

    documents: int = 0
    links: int = 0
    ignored: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def links_of(self, source: Source, rules: Rules) -> Iterator[tuple[Position, Link, Target]]:
        """Yield the links of a document with what they lead to, and say what a person may want to know."""
        name = name_of(source)
        self.documents += 1
        self.ignored += source.extraction.ignored
        for note in source.notes:
            say(f"{name}: {note}")
        for misread in source.extraction.misread:
            said = f"there is no comment 'retriever: {misread.said}', so it does nothing"
            say(f"{name}:{misread.line}:{misread.column}: {said}")
        for link in source.extraction.links:
            yield Position(name, link.line, link.column), link, target_of(link, source, rules)


def name_of(source: Source | Unread) -> str:
    """Return how a document is called in all reports, whatever way it was named."""
    return source.name if isinstance(source, Unread) or source.path is None else _shown_path(source.path)


def shown_target(target: Web | File) -> str:
    """Return the URL of a target, or its path, with its fragment."""
    name = target.url if isinstance(target, Web) else _shown_path(target.path)
    return name if target.fragment is None else f"{name}#{target.fragment}"


def _shown_path(path: Path) -> str:
    """Return a path from here, as build servers want it; in full where it leads out of here."""
    inside = Path(os.path.relpath(path)).as_posix()
    return Path(os.path.abspath(path)).as_posix() if inside.startswith("../") else inside  # noqa: PTH100 - links stay
