"""What a job may say of its request, before any request is made."""

import asyncio
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from consumer.http.client import HttpRequest, http_request
from consumer.http.failures import Failure
from consumer.secrets import Secrets
from shared.kinds.requests import RequestArgs

URL = "http://api.example/items"


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


@pytest.mark.parametrize("host", ["evil.example", "api.example.evil.example"])
async def test_a_secret_is_for_its_own_host_alone(tmp_path: Path, host: str) -> None:
    args = RequestArgs.model_validate(
        {"url": f"http://{host}/", "auth": {"type": "bearer", "token": {"secret": "token"}}}
    )

    failure = await http_request(args, secrets(tmp_path, token="t"), method="GET")

    assert isinstance(failure, Failure)
    assert failure.reason == "secret_missing"
    assert not failure.transient


@pytest.mark.parametrize("value", ["a\nb", "", "\x7f"])
async def test_a_secret_that_cannot_be_sent_is_as_good_as_missing(tmp_path: Path, value: str) -> None:
    args = RequestArgs.model_validate({"url": URL, "headers": {"X-Key": {"secret": "key"}}})

    failure = await http_request(args, secrets(tmp_path, key=value), method="GET")

    assert isinstance(failure, Failure)
    assert "'key' for api.example" in failure.explanation


async def test_a_folder_of_secrets_that_hangs_does_not_stop_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = RequestArgs.model_validate({"url": URL, "headers": {"X-Key": {"secret": "key"}}})
    known, go_on = secrets(tmp_path, key="k"), threading.Event()
    read = Secrets.read

    def hang(self: Secrets, name: str, *, host: str) -> str | None:
        return read(self, name, host=host) if go_on.wait(5) else None

    monkeypatch.setattr(Secrets, "read", hang)
    hanging = asyncio.create_task(http_request(args, known, method="GET"))
    await asyncio.sleep(0)
    go_on.set()

    question = await hanging
    assert isinstance(question, HttpRequest)
    assert question.headers["X-Key"] == "k"
