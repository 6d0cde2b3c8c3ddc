"""Real documents of this machine, and the links that other tools find in them.

Markdown is beside cmark-gfm, GitHub's own parser; HTML beside libxml2; reStructuredText beside docutils.
lychee finds links in all three; its program has 318 MB, so no test runs it:
`PYTHONPATH=client/src python -m tests.differential.link_extraction PROGRAM` does.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urljoin

import cmarkgfm
import docutils.core
import docutils.nodes
import lxml.html
from cmarkgfm.cmark import Options

from retriever_client.cli.links.document import Format, Link
from retriever_client.cli.links.extraction import extract

WANTED = {Format.MARKDOWN: 170, Format.HTML: 165, Format.REST: 165}
SUFFIXES = {Format.MARKDOWN: ".md", Format.HTML: ".html", Format.REST: ".rst"}
# Where packages keep documents: of Debian, of Python, of Node.js and of other tools.
PLACES = (
    *("/usr/share/doc", "/usr/lib/python3", "/usr/lib/node_modules", "/usr/share/gtk-doc", "/usr/lib/jvm"),
    *("/usr/lib/google-cloud-sdk", "/usr/share/cmake-3.25/Help", sys.prefix, sys.base_prefix),
)
MOST_BYTES = 1_000_000
_DOCUTILS = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "report_level": 5,
    "halt_level": 5,
    "line_length_limit": MOST_BYTES,
    "_disable_config": True,
    "warning_stream": False,
}
_LYCHEE = (
    *("--no-progress", "--root-dir", "/", "--offline", "-v"),
    *("--format", "json", "--include-mail"),
)


def documents(written_in: Format) -> list[Path]:
    """Return documents in UTF-8 with URLs, each once, of as many packages as possible."""
    seen: set[str] = set()
    by_package: dict[tuple[str, ...], list[tuple[str, Path]]] = defaultdict(list)
    for place in dict.fromkeys(PLACES):
        for path in sorted(Path(place).rglob(f"*{SUFFIXES[written_in]}")):
            digest = _digest(path)
            if digest is not None and digest not in seen:
                seen.add(digest)
                by_package[path.parts[:5]].append((digest, path))
    turns = [sorted(found) for found in by_package.values()]
    longest = max(map(len, turns), default=0)
    chosen = [found[turn][1] for turn in range(longest) for found in turns if turn < len(found)]
    return chosen[: WANTED[written_in]]


def _digest(path: Path) -> str | None:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        body = path.read_bytes()
        body.decode()
    except (OSError, UnicodeDecodeError):
        return None
    return hashlib.sha256(body).hexdigest() if b"://" in body else None


def links_by_cmark(text: str) -> Iterator[str]:
    """Yield the URLs that GitHub's parser makes links of, with those of the HTML that it passes on."""
    options = Options.CMARK_OPT_FOOTNOTES | Options.CMARK_OPT_UNSAFE
    html = cmarkgfm.github_flavored_markdown_to_html(text, options)
    if html.strip():
        yield from links_by_libxml(html)


def links_by_libxml(text: str) -> Iterator[str]:
    """Yield the URLs of a page that libxml2 reads, by the attributes that lxml knows."""
    page = lxml.html.fromstring(text.encode(), parser=lxml.html.HTMLParser(encoding="utf-8"))
    for element, _, url, _ in page.iterlinks():
        is_footnote = element.get("data-footnote-ref") is not None or "footnote" in (
            element.get("class") or ""
        )
        if not is_footnote and element.tag != "base":
            yield url


def links_by_docutils(text: str) -> Iterator[str]:
    """Yield the URLs of references, images and targets."""
    document = docutils.core.publish_doctree(text, settings_overrides=_DOCUTILS)
    for node in document.findall(docutils.nodes.Element):
        if isinstance(node, docutils.nodes.reference | docutils.nodes.target) and node.get("refuri"):
            yield node["refuri"]
        elif isinstance(node, docutils.nodes.image):
            yield node["uri"]


PEERS: dict[Format, Callable[[str], Iterator[str]]] = {
    Format.MARKDOWN: links_by_cmark,
    Format.HTML: links_by_libxml,
    Format.REST: links_by_docutils,
}


def normal(url: str) -> str:
    """Return a URL in a form that tools agree on: they encode differently, and may end hosts with a slash."""
    url = re.sub(r"[\t\n]", "", unquote(url.strip()))
    match = re.fullmatch(r"(\w+)://([^/?#]*)(.*)", url, re.DOTALL)
    return f"{match[1].lower()}://{match[2].lower()}{match[3] or '/'}" if match else url


def argued(url: str, *, ours: Link | None, text: str, written_in: Format) -> str | None:
    """Return why one tool alone finds a URL (docs/links.md), None when nobody has said why."""
    if ours is None and url.startswith("mailto:"):
        return "a mail address is no link"
    if ours is None and written_in is Format.HTML and not url:
        return "an empty reference is the page itself"
    if ours is not None and ours.kind == "definition" and written_in is Format.MARKDOWN:
        return "a definition that nothing uses"
    if ours is not None and written_in is Format.REST and _in_directive(text, ours.line):
        return "in a directive that docutils does not know"
    if ours is not None and written_in is Format.HTML and ours.raw in _sets(text):
        return "lxml reads no sets of images"
    return None


def _in_directive(text: str, line: int) -> bool:
    """Whether a line is that of a directive or indented below one."""
    lines = text.splitlines()
    indent = len(lines[line - 1]) - len(lines[line - 1].lstrip())
    for above in reversed(lines[:line]):
        if not above.strip():
            continue
        own = len(above) - len(above.lstrip())
        if own <= indent and re.match(r"\s*\.\. [\w:.-]+::", above):
            return True
        indent = min(indent, own)
        if own == 0:
            return False
    return False


def _sets(text: str) -> str:
    return " ".join(re.findall(r"srcset\s*=\s*[\"']([^\"']*)", text))


def differences(written_in: Format) -> Iterator[tuple[Path, str, str, str | None]]:
    """Yield each URL that one tool finds in a document and the other does not: whose it is, and why."""
    for path in documents(written_in):
        text = path.read_text()
        ours = {normal(link.url): link for link in extract(text, written_in).links}
        theirs = {normal(url) for url in PEERS[written_in](text)}
        for url in sorted(ours.keys() ^ theirs):
            link = ours.get(url)
            yield (
                path,
                "ours" if link else "theirs",
                url,
                argued(url, ours=link, text=text, written_in=written_in),
            )


def compare_with_lychee(program: str) -> None:
    """Say which links lychee finds and we do not, and the other way round."""
    for written_in in WANTED:
        paths = documents(written_in)
        # In HTML a link within `pre` is a link; in Markdown and text that would be all code.
        verbatim = ["--include-verbatim"] if written_in is Format.HTML else []
        command = [program, *_LYCHEE, *verbatim, "--", *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said: dict[str, dict[str, str]] = defaultdict(dict)
        for name, answers in json.loads(done.stdout).items():
            for document, links in (
                answers.items() if name.endswith("_map") and name != "suggestion_map" else ()
            ):
                said[document] |= {
                    normal(link["url"]).rstrip("/"): f"{link['span']['line']}" for link in links
                }
        count: Counter[str] = Counter()
        for path in paths:
            base = "file://" + quote(str(path))
            extraction = extract(path.read_text(), written_in)
            ours = {
                normal(urljoin(base, link.url.strip())).rstrip("/"): str(link.line)
                for link in extraction.links
            }
            theirs = said[str(path)]
            count["both"] += len(ours.keys() & theirs.keys())
            for whose, mine, other in (("ours", ours, theirs), ("theirs", theirs, ours)):
                for url in sorted(mine.keys() - other.keys()):
                    count[whose] += 1
                    print(f"{whose:6} {path}:{mine[url]} {url}")  # noqa: T201
        print(written_in.value, len(paths), dict(count))  # noqa: T201


if __name__ == "__main__":
    compare_with_lychee(sys.argv[1])
