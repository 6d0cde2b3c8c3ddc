"""What `retriever links` writes: links as they are found, before anybody is asked about them."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TextIO

from retriever_client.cli.collecting import shown_target
from retriever_client.cli.link_store import Position
from retriever_client.cli.links.document import Link
from retriever_client.cli.links.targets import Invalid, Skipped, Target
from retriever_client.cli.output import escaped

_COLUMNS: Final = ("file", "line", "column", "kind", "text", "url", "skipped")


@dataclass(frozen=True, slots=True)
class FoundLink:
    """A link in a document, and what it leads to."""

    place: Position
    link: Link
    target: Target


def write_links(links: Iterable[FoundLink], output: str, out: TextIO) -> None:
    """Write links as they come; `skipped` says why one would not be asked about."""
    match output:
        case "json":
            out.write("[")
            separator = "\n  "
            for link in links:
                out.write(separator + json.dumps(_document(link)))
                separator = ",\n  "
            out.write("]\n")
        case "ndjson":
            out.writelines(json.dumps(_document(link)) + "\n" for link in links)
        case "csv":
            writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(_document, links))
        case _:
            out.writelines(_line(link, with_tabs=output == "plain") for link in links)


def _document(found: FoundLink) -> dict[str, Any]:
    return {
        "file": found.place.file,
        "line": found.place.line,
        "column": found.place.column,
        "kind": found.link.kind.value,
        "text": found.link.raw,
        "url": _url(found),
        "skipped": _skipped(found.target),
    }


def _line(found: FoundLink, *, with_tabs: bool) -> str:
    place = escaped(f"{found.place.file}:{found.place.line}:{found.place.column}")
    url, skipped = escaped(_url(found)), _skipped(found.target)
    if with_tabs:
        return f"{place}\t{found.link.kind}\t{url}\t{skipped or '-'}\n"
    return f"{place}  {url}{f'  (not asked about: {skipped})' if skipped else ''}\n"


def _url(found: FoundLink) -> str:
    is_asked = not isinstance(found.target, Skipped | Invalid)
    return shown_target(found.target) if is_asked else found.link.url  # type: ignore[arg-type]


def _skipped(target: Target) -> str | None:
    match target:
        case Skipped():
            return target.value
        case Invalid():
            return target.reason
        case _:
            return None
