"""Bodies as text: as browsers decode pages, and without loss for what is kept."""

import codecs
import random

import pytest

from consumer.http.markup import Markup
from consumer.http.text import decode_page, decode_text

HTML, XHTML, NONE = Markup.HTML, Markup.XHTML, Markup.NONE


@pytest.mark.parametrize(
    ("body", "label", "text"),
    [
        (b"", None, ""),
        ("é".encode(), None, "é"),
        ("é".encode(), "UTF8", "é"),
        (b"caf\xe9", "utf-8", "caf\ufffd"),
        (b"a\0b", "utf-8", "a\0b"),
        (b"\x93\x80\x94", "iso-8859-1", "“€”"),
        (b"\x93\x80\x94", " US-ASCII ", "“€”"),
        (b"\xa4", "iso-8859-15", "€"),
        ("語".encode("shift_jis"), "x-sjis", "語"),
        ("①".encode("cp932"), "Shift_JIS", "①"),
        ("語€".encode("gb18030"), "gb2312", "語€"),
        ("똠".encode("cp949"), "euc-kr", "똠"),
        (codecs.BOM_UTF8 + "é".encode(), "iso-8859-1", "é"),
        ("é".encode("utf-16"), "utf-8", "é"),
        (codecs.BOM_UTF16_BE + "é".encode("utf-16-be"), None, "é"),
        ("é".encode("utf-16-le"), "utf-16", "é"),
        ("é".encode(), "no-such-charset", "é"),
        (rb"\u0041", "unicode_escape", r"\u0041"),
        (b"+AGE-", "utf-7", "+AGE-"),
        (b"abc", "a\0b", "abc"),
    ],
)
def test_a_mark_beats_a_label_and_labels_mean_what_browsers_take_them_for(
    body: bytes, label: str | None, text: str
) -> None:
    assert decode_page(body, label) == text


@pytest.mark.parametrize(
    ("beginning", "encoding"),
    [
        ("<meta charset=koi8-r>", "koi8-r"),
        ("<META content='text/html;CHARSET = \"koi8-r\"' http-equiv=content-TYPE>", "koi8-r"),
        ("<meta charset=nonsense><meta charset=koi8-r>", "koi8-r"),
        ("<meta name=x content='charset=koi8-r'>", "utf-8"),
        ("<!-- <meta charset=koi8-r> -->", "utf-8"),
        ("<!--><meta charset=koi8-r>", "koi8-r"),
        ("<meta charset=utf-16>", "utf-8"),
        ("<meta charset=x-user-defined>", "windows-1252"),
        (f"<!--{' ' * 1_100}--><meta charset=koi8-r>", "utf-8"),
        ("<?xml version='1.0' encoding='koi8-r'?>", "koi8-r"),
        ("<?xml version='1.0' encoding='koi8-r'?><meta charset=windows-1251>", "windows-1251"),
    ],
)
def test_a_page_without_a_label_declares_its_encoding_at_its_beginning(beginning: str, encoding: str) -> None:
    text = f"{beginning}<p>{'é' if encoding == 'windows-1252' else 'Да'}"

    assert decode_page(text.encode(encoding), None, HTML) == text


def test_a_label_beats_what_the_page_says_of_itself() -> None:
    text = "<meta charset=koi8-r>é"

    assert decode_page(text.encode(), "utf-8", HTML) == text


def test_what_is_no_page_declares_nothing() -> None:
    text = "<meta charset=koi8-r>é"

    assert decode_page(text.encode(), None, NONE) == text


def test_xhtml_has_the_encoding_of_its_declaration_and_no_meta() -> None:
    text = "<?xml version='1.0' encoding='iso-8859-2'?><meta charset='koi8-r'/>ą"
    without = "<meta charset='koi8-r'/>ą"

    assert decode_page(text.encode("iso-8859-2"), None, XHTML) == text
    assert decode_page(without.encode(), None, XHTML) == without


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"caf\xe9", "café"),
        ("日本語".encode() + b"\xff", "日本語\ufffd"),
        ("日本語".encode()[:-1], "日本\ufffd"),
        (b"\x89PNG\r\n", "‰PNG\r\n"),
    ],
)
def test_a_guess_is_utf_8_when_most_of_it_decodes_and_else_windows_1252(body: bytes, text: str) -> None:
    assert decode_page(body, None) == text


def test_no_bytes_under_any_label_fail_to_decode() -> None:
    bytes_at_random = random.Random(15)
    labels = ["utf-16", "gb18030", "iso-2022-jp", "hz-gb-2312", "euc-jp", "big5", "x-user-defined", None]
    for label in labels * 50:
        body = bytes_at_random.randbytes(bytes_at_random.randrange(60))

        decode_page(body, label, HTML).encode()  # It has no surrogates, which nothing could send on.


@pytest.mark.parametrize(
    ("body", "label", "text", "encoding"),
    [
        ("é".encode(), None, "é", "utf-8"),
        ("é".encode("cp1252"), "iso-8859-1", "é", "windows-1252"),
        ("é".encode("cp1252"), "latin-1", "é", "windows-1252"),
        (codecs.BOM_UTF8 + "é".encode(), "iso-8859-1", "é", "utf-8"),
        ("é".encode("utf-32"), None, "é", "utf-32-le"),
    ],
)
def test_text_that_is_kept_names_its_encoding(
    body: bytes, label: str | None, text: str, encoding: str
) -> None:
    assert decode_text(body, label) == (text, encoding)


def test_a_page_that_is_kept_may_declare_its_encoding_itself() -> None:
    assert decode_text(b"<meta charset=latin1>\xe9", None, HTML) == ("<meta charset=latin1>é", "windows-1252")


@pytest.mark.parametrize(
    ("body", "label"),
    [
        (b"caf\xe9", None),
        (b"caf\xe9", "utf-8"),
        (b"\x81", "iso-8859-1"),
        (b"\x89PNG\r\n", None),
        (b"a\0b", None),
        ("\ud800".encode("utf-16", "surrogatepass"), None),
        (b"~{VP~}", "hz-gb-2312"),
    ],
)
def test_what_would_be_changed_by_decoding_is_kept_as_bytes(body: bytes, label: str | None) -> None:
    assert decode_text(body, label) is None
