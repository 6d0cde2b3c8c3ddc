"""What was bad already: a file with the links by which a run is not to fail.

A link is known by its document and its URL, not by its line: lines move.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from retriever_client.errors import RetrieverError

_VERSION: Final = 1


class BaselineUnusable(RetrieverError):
    """The file cannot be read, or is no baseline."""


def read_baseline(path: Path) -> list[tuple[str, str]]:
    """Return the documents and URLs of a baseline.

    Raises:
        BaselineUnusable: There is no such file, or it is something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["retriever_baseline"] != _VERSION:
            raise BaselineUnusable(f"{path}: it is a baseline of another version")
        return [(str(each["file"]), str(each["url"])) for each in document["links"]]
    except FileNotFoundError as error:
        raise BaselineUnusable(f"{path}: there is no baseline; --update-baseline writes one") from error
    except OSError as error:
        raise BaselineUnusable(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BaselineUnusable(f"{path}: it is no baseline") from error


def write_baseline(path: Path, links: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Write documents and URLs, each once and in their order; return them.

    Raises:
        BaselineUnusable: It cannot be written.
    """
    known = sorted(set(links))
    # A line each, so that versions of it compare.
    lines = [f"  {json.dumps({'file': file, 'url': url}, ensure_ascii=False)}" for file, url in known]
    text = f'{{"retriever_baseline": {_VERSION}, "links": [\n' + ",\n".join(lines) + "\n]}\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BaselineUnusable(f"{path}: {error.strerror or error}") from error
    return known
