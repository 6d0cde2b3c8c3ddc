"""What a job may say of its request, before any request is made."""

import asyncio
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from consumer.http.client import HttpRequest, http_request
from consumer.http.failures import Failure
from consumer.secrets import Secrets, secret_folder
from shared.kinds.requests import RequestArgs
from shared.origins import is_same_origin
from shared.urls import normalize_url

URL = "https://api.example/items"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("X Y", "1", "not a field name"),
        ("", "1", "not a field name"),
        ("Naïve", "1", "not a field name"),
        ("Host", "evil.example", "written by the worker"),
        ("content-length", "0", "written by the worker"),
        ("Transfer-Encoding", "chunked", "written by the worker"),
        ("Proxy-Authorization", "x", "written by the worker"),
        ("Authorization", "Bearer x", "belong in `auth`"),
        ("X-Note", "a\r\nX-Other: b", "not a field value"),
        ("X-Note", "a\n", "not a field value"),
        ("X-Note", "\0", "not a field value"),
        ("X-Note", "é", "not a field value"),
        ("X-Note", "x" * 4_097, "at most 4096"),
    ],
)
def test_a_header_that_could_break_the_request_is_refused(name: str, value: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RequestArgs.model_validate({"url": URL, "headers": {name: value}})


def test_a_header_may_not_come_twice_in_two_spellings() -> None:
    with pytest.raises(ValidationError, match="named twice"):
        RequestArgs.model_validate({"url": URL, "headers": {"X-A": "1", "x-a": "2"}})


def test_so_many_values_may_be_secrets_and_no_more() -> None:
    headers = {f"X-{n}": {"secret": "key"} for n in range(11)}

    with pytest.raises(ValidationError, match="at most 10 values may be secrets"):
        RequestArgs.model_validate({"url": URL, "headers": headers})
    del headers["X-0"]
    assert len(RequestArgs.model_validate({"url": URL, "headers": headers}).headers) == 10


@pytest.mark.parametrize("name", ["../other/key", "a/b", ".hidden", "", "UPPER"])
def test_the_name_of_a_secret_is_no_path(name: str) -> None:
    with pytest.raises(ValidationError, match="secret"):
        RequestArgs.model_validate({"url": URL, "headers": {"X-Key": {"secret": name}}})


def secrets(folder: Path, **by_host_and_name: str) -> Secrets:
    for name, value in by_host_and_name.items():
        path = folder / "api.example" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(value)
    return Secrets(folder)


async def test_secrets_are_filled_in_by_the_worker(tmp_path: Path) -> None:
    args = RequestArgs.model_validate(
        {
            "url": URL,
            "headers": {"X-Key": {"secret": "key"}, "X-Plain": "1"},
            "auth": {"type": "bearer", "token": {"secret": "token"}},
        }
    )

    question = await http_request(args, secrets(tmp_path, key="k\n", token="t"), method="GET")

    assert isinstance(question, HttpRequest)
    assert question.headers == {"X-Key": "k", "X-Plain": "1", "Authorization": "Bearer t"}
    assert "Bearer t" not in repr(question)


async def test_a_password_may_hold_any_character(tmp_path: Path) -> None:
    auth = {"type": "basic", "username": "ann", "password": {"secret": "pass"}}
    args = RequestArgs.model_validate({"url": URL, "auth": auth})

    question = await http_request(args, secrets(tmp_path, **{"pass": "p:ä"}), method="GET")

    assert isinstance(question, HttpRequest)
    assert question.headers["Authorization"] == "Basic YW5uOnA6w6Q="


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("https://api.example/x", "api.example"),
        ("https://API.example:443/", "api.example"),
        ("http://api.example/", "http+api.example+80"),
        ("http://api.example:443/", "http+api.example+443"),
        ("https://api.example:80/", "https+api.example+80"),
        ("https://api.example:8443/", "https+api.example+8443"),
        ("http://127.1:8090/", "http+127.0.0.1+8090"),
        ("https://[2001:db8::1]/", "[2001-db8--1]"),
        ("http://[::1]:8080/", "http+[--1]+8080"),
        ("https://xn--mnchen-3ya.example/", "xn--mnchen-3ya.example"),
        # A host that is written like the folder of another origin has none of its own.
        ("https://http+api.example+80/", None),
        ("https://https+api.example+8443/", None),
        ("https://a+b.example/", None),
    ],
)
def test_the_secrets_of_an_origin_are_in_a_folder_of_its_own(url: str, folder: str | None) -> None:
    assert secret_folder(normalize_url(url)) == folder
    assert folder is None or not set(folder) & set(':/\\*?"<>|')


spellings = st.tuples(
    st.sampled_from(["http", "https"]),
    st.from_regex(r"[a-z0-9+_.-]{1,12}\.ex|http\+a\.ex\+80|\[::[1-9a-f]{1,4}\]", fullmatch=True),
    st.sampled_from(["", ":80", ":443", ":8443", ":1"]),
)


@given(spellings, spellings)
def test_no_two_origins_share_a_folder(one: tuple[str, str, str], two: tuple[str, str, str]) -> None:
    try:
        urls = [normalize_url(f"{scheme}://{host}{port}/") for scheme, host, port in (one, two)]
    except ValueError:
        return
    folders = [secret_folder(url) for url in urls]

    assert is_same_origin(*urls) or None in folders or folders[0] != folders[1]


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "https://api.example.evil.example/",
        "http://api.example/",
        "https://api.example:8443/",
        "http://api.example:443/",
        "https://http+api.example+80/",
    ],
)
async def test_a_secret_is_for_its_own_origin_alone(tmp_path: Path, url: str) -> None:
    args = RequestArgs.model_validate({"url": url, "auth": {"type": "bearer", "token": {"secret": "token"}}})

    failure = await http_request(args, secrets(tmp_path, token="t"), method="GET")

    assert isinstance(failure, Failure)
    assert failure.reason == "secret_missing"
    assert not failure.transient


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://a.example/", "'token' for https://a.example: it would be a.example/token in RETRIEVER_"),
        ("http://a.example/", "for http://a.example: it would be http+a.example+80/token in RETRIEVER_"),
        ("https://a+b.example/", "for https://a+b.example: no folder serves such a host in RETRIEVER_"),
    ],
)
async def test_a_missing_secret_names_the_folder_that_would_serve_it(
    tmp_path: Path, url: str, said: str
) -> None:
    args = RequestArgs.model_validate({"url": url, "auth": {"type": "bearer", "token": {"secret": "token"}}})

    failure = await http_request(args, Secrets(tmp_path), method="GET")

    assert isinstance(failure, Failure)
    assert said in failure.explanation


@pytest.mark.parametrize("value", ["a\nb", "", "\x7f"])
async def test_a_secret_that_cannot_be_sent_is_as_good_as_missing(tmp_path: Path, value: str) -> None:
    args = RequestArgs.model_validate({"url": URL, "headers": {"X-Key": {"secret": "key"}}})

    failure = await http_request(args, secrets(tmp_path, key=value), method="GET")

    assert isinstance(failure, Failure)
    assert "'key' for https://api.example" in failure.explanation


async def test_a_folder_of_secrets_that_hangs_does_not_stop_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = RequestArgs.model_validate({"url": URL, "headers": {"X-Key": {"secret": "key"}}})
    known, go_on = secrets(tmp_path, key="k"), threading.Event()
    read = Secrets.read

    def hang(self: Secrets, name: str, *, url: str) -> str | None:
        return read(self, name, url=url) if go_on.wait(5) else None

    monkeypatch.setattr(Secrets, "read", hang)
    hanging = asyncio.create_task(http_request(args, known, method="GET"))
    await asyncio.sleep(0)
    go_on.set()

    question = await hanging
    assert isinstance(question, HttpRequest)
    assert question.headers["X-Key"] == "k"
