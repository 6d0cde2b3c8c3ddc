"""Documents that inputs name, and what links lead to: files, folders, patterns, git, pages, sitemaps."""

import gzip
import os
import re
import subprocess
from io import BytesIO
from pathlib import Path

import pytest

from retriever_client.cli.links.document import Format, Link, LinkKind
from retriever_client.cli.links.inputs import (
    InputUnusable,
    Page,
    Place,
    Reading,
    Source,
    Unread,
    changed_files,
    decode,
    names_from,
    places,
    read,
    read_sitemap,
    tracked_files,
)
from retriever_client.cli.links.targets import (
    File,
    FileChecks,
    FileVerdict,
    Invalid,
    Rules,
    Skipped,
    Web,
    target_of,
)


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def names(found: object) -> list[str]:
    assert isinstance(found, list)
    return [place.name if isinstance(place, Place) else f"{place.name}: {place.reason}" for place in found]


def only(*found: Source | Unread) -> Source:
    (source,) = found
    assert isinstance(source, Source)
    return source


def git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@x.example", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def test_a_folder_is_searched_for_documents_by_their_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        dict.fromkeys(["b.md", "a/c.html", "a/d.py", ".git/e.md", "node_modules/f.md", "g.rst", "h.txt"], ""),
    )

    found = list(places(["."], Reading(root=tmp_path)))

    assert names(found) == ["./a/c.html", "./b.md", "./g.rst", "./h.txt"]


def test_inputs_are_files_patterns_and_urls_each_document_once(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["a.md", "d/b.md", "LICENSE"], ""))

    found = list(
        places(["LICENSE", "**/*.md", "a.md", "http://x/", "-", "no.md", "*.no"], Reading(root=tmp_path))
    )

    assert names(found)[0] == "LICENSE"
    assert sorted(names(found)[1:3]) == ["a.md", "d/b.md"]
    assert names(found)[3:] == ["http://x/", "-", "no.md: No such file or directory", "*.no: no file matches"]


def test_links_of_folders_that_go_round_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, {"a/b.md": ""})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "gone.md").symlink_to("nowhere")

    found = list(read(places(["."], Reading(root=tmp_path)), Reading(root=tmp_path)))

    assert [each.name for each in found if isinstance(each, Source)] == ["./a/b.md"]
    assert [each for each in found if isinstance(each, Unread)] == [
        Unread("./a/self", "Too many levels of symbolic links"),
        Unread("./gone.md", "No such file or directory"),
    ]


def test_what_cannot_be_read_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": b"x\x00y", "b.md": "a" * 101, "d.md": "[a](b)", "sitemap.xml": "<html/>"})
    os.mkfifo(tmp_path / "c.md")
    reading = Reading(root=tmp_path, most_bytes=dict.fromkeys(Format, 100))

    found = list(read(places(["."], reading), reading))

    assert [each.name for each in found if isinstance(each, Source)] == ["./d.md"]
    assert [(each.name, each.reason) for each in found if isinstance(each, Unread)] == [
        ("./a.md", "not text: it has zero bytes"),
        ("./b.md", "longer than 100 bytes"),
        ("./c.md", "not a regular file"),
        ("./sitemap.xml", "no sitemap: its root is <html>, not <urlset> or <sitemapindex>"),
    ]


@pytest.mark.parametrize(
    ("body", "declared", "text", "is_guess"),
    [
        ("é".encode(), None, "é", False),
        (b"\xef\xbb\xbf\xc3\xa9", "latin-1", "é", False),
        ("é".encode("utf-16"), None, "é", False),
        ("é".encode("utf-16-be"), "utf-16-be", "é", False),
        (b"\xe9", None, "é", True),
        (b'<meta charset="koi8-r">\xd1', None, '<meta charset="koi8-r">я', False),
        (b'<meta charset="utf-16">\xc3\xa9', None, '<meta charset="utf-16">é', False),
        (b'<meta charset="punycode">a', None, '<meta charset="punycode">a', False),
        (b"a", "no such encoding", "a", False),
    ],
)
def test_encodings_are_found_and_guesses_told(
    body: bytes, declared: str | None, text: str, is_guess: bool
) -> None:
    assert decode(body, declared)[0] == text
    assert (decode(body, declared)[1] is not None) == is_guess


def test_a_byte_order_mark_moves_no_column(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": b"\xef\xbb\xbf[a](b)"})

    source = only(*read(places(["a.md"], Reading(root=tmp_path)), Reading(root=tmp_path)))

    assert source.extraction.links == (Link("b", "b", 1, 5, LinkKind.LINK),)


def test_standard_input_is_read_as_it_is_said_or_looks() -> None:
    as_markdown = Reading(written_in=Format.MARKDOWN, stdin=BytesIO(b"[a](b)"))
    as_it_looks = Reading(stdin=BytesIO(b"<!-- x -->\n<!DOCTYPE html><a href=c>"))

    assert only(*read(places(["-"], as_markdown), as_markdown)).extraction.links[0].url == "b"
    assert only(*read(places(["-"], as_it_looks), as_it_looks)).extraction.links[0].url == "c"


def test_a_list_of_inputs_has_one_a_line() -> None:
    assert list(names_from(["a.md\n", "\n", "# b.md\n", " c d.md \n"])) == ["a.md", "c d.md"]


def test_git_names_what_is_tracked_and_what_has_changed(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a.md": "", "b.md": "", "é.md": "", "gone.md": "", "d/x.md": "", ".gitignore": "ignored.md"},
    )
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "checkout", "-qb", "topic")
    write(tmp_path, {"b.md": "2"})
    git(tmp_path, "commit", "-qam", "two")
    write(tmp_path, {"é.md": "3", "new.md": "", "ignored.md": ""})
    (tmp_path / "gone.md").unlink()

    assert names(list(tracked_files(tmp_path))) == ["a.md", "b.md", "d/x.md", "é.md"]
    assert names(list(tracked_files(tmp_path / "d"))) == ["x.md"]
    assert names(list(changed_files(tmp_path, "main"))) == ["b.md", "é.md", "new.md"]
    for revision in ("nowhere", "--output=/tmp/x"):
        with pytest.raises(InputUnusable, match="no revision"):
            list(changed_files(tmp_path, revision))


def test_without_a_repository_git_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputUnusable, match="not a git repository"):
        list(tracked_files(tmp_path))


def test_pages_are_read_as_their_server_says() -> None:
    pages = {
        "http://x/": Page("http://x/to/", "text/html; charset=latin-1", b"<a href='\xe9'>"),
        "http://x/a.md": Page("http://x/a.md", "text/plain", b"[a](b)"),
        "http://x/s": Page(
            "http://x/s", "application/xml", b"<urlset><url><loc>http://x/</loc></url></urlset>"
        ),
    }
    reading = Reading(fetch=lambda url, most: pages[url])

    sources = [each for each in read(places(pages, reading), reading) if isinstance(each, Source)]

    assert [(each.written_in, each.url, each.extraction.links[0].url) for each in sources] == [
        (Format.HTML, "http://x/to/", "é"),
        (Format.MARKDOWN, "http://x/a.md", "b"),
        (Format.SITEMAP, "http://x/s", "http://x/"),
    ]


def test_a_sitemap_leads_to_those_of_its_host_packed_or_not() -> None:
    def index(*locations: str) -> bytes:
        entries = "".join(f"<sitemap><loc>{location}</loc></sitemap>" for location in locations)
        return f"<sitemapindex>{entries}</sitemapindex>".encode()

    pages = {
        "http://x/s.xml": index("http://x/a.xml.gz", "http://y/b.xml", "/etc/passwd", "http://x/i.xml"),
        "http://x/a.xml.gz": gzip.compress(b"<urlset><url><loc>http://x/p</loc></url></urlset>"),
        "http://x/i.xml": index("http://x/j.xml"),
        "http://x/j.xml": index("http://x/k.xml"),
    }
    reading = Reading(fetch=lambda url, most: Page(url, "", pages[url]))

    found = list(read_sitemap("http://x/s.xml", reading))

    links = [link for each in found if isinstance(each, Source) for link in each.extraction.links]
    assert [link.url for link in links if link.kind is LinkKind.PAGE] == ["http://x/p"]
    assert {each.name for each in found if isinstance(each, Unread)} == {
        *("http://y/b.xml", "/etc/passwd", "http://x/k.xml"),
    }


def test_a_packed_sitemap_is_unpacked_to_its_limit_only(tmp_path: Path) -> None:
    write(tmp_path, {"sitemap.xml.gz": gzip.compress(b" " * 10_000_000), "sitemap2.xml.gz": b"\x1f\x8bno"})
    reading = Reading(root=tmp_path, most_bytes=dict.fromkeys(Format, 100_000))

    found = list(read(places(["."], reading), reading))

    reasons = [each.reason for each in found if isinstance(each, Unread)]
    assert reasons[0] == "longer than 100,000 bytes"
    assert "gzip is broken" in reasons[1]


def source_of(
    path: Path | None, text: str = "", url: str | None = None, written_in: Format = Format.HTML
) -> Source:
    from retriever_client.cli.links.extraction import extract  # noqa: PLC0415

    return Source("x", written_in, extract(text, written_in), path, url)


def link(url: str) -> Link:
    return Link(url, url, 1, 1, LinkKind.LINK)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://x/a#b%20c", Web("http://x/a", "b c")),
        ("//x/a", Web("https://x/a")),
        ("http://x/a#:~:text=b", Web("http://x/a", "")),
        ("b%20c.md?raw#d", File(Path("/r/d/b c.md"), "d")),
        ("../b.md", File(Path("/r/b.md"))),
        ("#d", File(Path("/r/d/a.html"), "d")),
        ("/b.md", File(Path("/r/b.md"))),
        ("file:///b/c.md", File(Path("/b/c.md"))),
        ("mailto:a@b", Skipped.MAIL),
        ("tel:+1", Skipped.PHONE),
        ("data:,x", Skipped.DATA),
        ("JavaScript:x()", Skipped.SCRIPT),
        ("git://x/", Skipped.SCHEME),
        ("{{ url }}", Skipped.PLACEHOLDER),
        ("http://[::1/", Invalid("Invalid IPv6 URL")),
        ("http:///a", Invalid("it names no host")),
        ("http://x:99999/", Invalid("Port out of range 0-65535")),
    ],
)
def test_what_a_link_of_a_file_leads_to(url: str, target: object) -> None:
    assert target_of(link(url), source_of(Path("/r/d/a.html")), Rules(root=Path("/r"))) == target


def test_relative_links_start_from_the_base() -> None:
    served = Rules(base_url="https://docs.example/v1", root=Path("/r"))

    assert target_of(link("b"), source_of(Path("/r/d/a.html")), served) == Web("https://docs.example/v1/d/b")
    assert target_of(link("b"), source_of(None, url="http://x/c/d"), Rules()) == Web("http://x/c/b")
    with_base = source_of(None, "<base href='/e/'>", "http://x/c/d")
    assert target_of(link("b"), with_base, Rules()) == Web("http://x/e/b")
    assert target_of(link("b"), source_of(None), Rules()) is Skipped.NO_BASE


def test_patterns_include_and_exclude() -> None:
    rules = Rules(include=[re.compile("^https?://x/")], exclude=[re.compile("/private")])

    targets = [
        target_of(link(url), source_of(None), rules)
        for url in ("http://x/a", "http://x/private", "http://y/")
    ]

    assert targets == [Web("http://x/a"), Skipped.EXCLUDED, Skipped.EXCLUDED]


def test_links_to_files_are_good_when_the_file_and_what_the_fragment_names_is_there(tmp_path: Path) -> None:
    write(
        tmp_path, {"a.md": "# One two\n<a id=x>", "b.html": "<p id=Y>", "d/index.html": "", "i.png": b"\x00"}
    )
    checks = FileChecks(index_files=["index.html"], suffixes=[".html"])

    def verdict(path: str, fragment: str | None = None) -> FileVerdict:
        return checks.check(File(tmp_path / path, fragment))

    good = [
        ("a.md", None),
        ("a.md", "one-two"),
        ("a.md", "x"),
        ("b", "Y"),
        ("d", None),
        ("i.png", "f"),
        ("b.html", "top"),
    ]
    assert {verdict(*each) for each in good} == {FileVerdict.OK}
    assert verdict("a.md", "three") is FileVerdict.MISSING_FRAGMENT
    assert {verdict("c.md"), verdict("x" * 300)} == {FileVerdict.MISSING}
    assert FileChecks(index_files=["README.md"]).check(File(tmp_path / "d")) is FileVerdict.MISSING
