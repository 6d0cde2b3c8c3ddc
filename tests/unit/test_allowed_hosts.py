"""Which hosts a service answers to, and how settings name them."""

import pytest

from shared.allowed_hosts import AllowedHosts, split_host, split_origin
from shared.errors import SettingsInvalid
from shared.settings import read_settings


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("a.example", ("a.example", None)),
        ("A.Example.:80", ("a.example", 80)),
        ("under_score:8080", ("under_score", 8080)),
        ("[::1]:8080", ("[::1]", 8080)),
        ("a.example:", None),
        ("a.example:x", None),
        ("a@b", None),
        ("a.example\n", None),
        ("", None),
        ("a" * 300, None),
        ("ä.example", None),
    ],
)
def test_a_host_is_split(value: str, parts: tuple[str, int | None] | None) -> None:
    assert split_host(value) == parts


@pytest.mark.parametrize(
    "value", ["null", "", "a.example", "http://", "http://a/b", "http://a@b", "http://a b"]
)
def test_what_is_no_origin_is_none(value: str) -> None:
    assert split_origin(value) is None


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        ("a.example", "a.example", "b.a.example"),
        ("*.a.example", "c.b.a.example", "a.example"),
        ("*.a.example", "b.a.example", "ba.example"),
        ("*", "anything.example", None),
    ],
)
def test_a_pattern_allows_a_name_or_all_below_one(pattern: str, allowed: str, refused: str | None) -> None:
    hosts = AllowedHosts([pattern], listens_on=[])

    assert hosts.allows(allowed)
    assert refused is None or not hosts.allows(refused)


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f.1", "127.1", "127.0.0.1.example", "::1.example", "[::1", "", "."]
)
def test_what_only_looks_like_an_address_is_none(host: str) -> None:
    assert not AllowedHosts([], listens_on=["127.0.0.1"]).allows(host)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_ALLOWED_HOSTS", "https://a.example"),
        ("API_ALLOWED_HOSTS", "a.example:8080"),
        ("API_ALLOWED_HOSTS", "a.*.example"),
        ("API_ALLOWED_ORIGINS", "a.example"),
        ("API_ALLOWED_ORIGINS", "https://a.example/"),
        ("API_ALLOWED_ORIGINS", "null"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"RETRIEVER_{name}", value)

    with pytest.raises(SettingsInvalid, match=f"RETRIEVER_{name}"):
        read_settings()


def test_settings_are_read_as_browsers_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVER_API_ALLOWED_HOSTS", "API.example.com, *.b.example")
    monkeypatch.setenv("RETRIEVER_API_ALLOWED_ORIGINS", "https://App.example.com:443,http://localhost:3000")
    settings = read_settings()

    assert settings.api_allowed_hosts == ("api.example.com", "*.b.example")
    assert settings.api_allowed_origins == ("https://app.example.com", "http://localhost:3000")
