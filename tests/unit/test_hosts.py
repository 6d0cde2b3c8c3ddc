"""What limits call a host, and the settings that say how hard each may be asked."""

import pytest

from shared.errors import SettingsInvalid
from shared.hosts import HostLimit, NamedLimit, host_key, host_named, named_limit
from shared.settings import Settings, read_settings

DEFAULT = HostLimit(8, 20)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://Example.COM/a", "example.com"),
        ("https://example.com./a", "example.com"),
        ("http://example.com:80/", "example.com"),
        ("https://example.com:443/", "example.com"),
        ("http://example.com:443/", "example.com:443"),
        ("http://user:secret@example.com/", "example.com"),
        ("http://0x7f.1/", "127.0.0.1"),
        ("http://[::1]:8080/", "[::1]:8080"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("ftp://example.com/", None),
        ("not a url", None),
        ("http://", None),
    ],
)
def test_a_host_has_one_key_however_its_url_is_written(url: str, key: str | None) -> None:
    assert host_key(url) == key


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://Example.COM./a", "Example.COM."),
        ("http://example.com:80/", "example.com"),
        ("http://example.com:443/", "example.com:443"),
        ("https://example.com:80/", "example.com:080"),
        ("http://[0:0::1]:8080/", "[0:0::1]:8080"),
        ("http://[::1]/", "[::1]"),
        ("https://bücher.example/", "BÜCHER.example"),
    ],
)
def test_a_host_that_somebody_names_is_the_one_of_urls(url: str, text: str) -> None:
    assert host_named(text) == host_key(url)


@pytest.mark.parametrize(
    ("host", "limit"),
    [
        ("example.com", HostLimit(2, 0.5)),
        ("example.com:8080", HostLimit(2, 0.5)),
        ("example.com:9000", HostLimit(3, 3)),
        ("www.example.com", HostLimit(4, 10)),
        ("a.b.example.com", HostLimit(4, 10)),
        ("deep.www.example.com", HostLimit(1, 1)),
        ("notexample.com", DEFAULT),
        ("[::1]:8080", HostLimit(5, 0)),
    ],
)
def test_the_nearest_limit_wins(host: str, limit: HostLimit) -> None:
    said = "example.com=2:0.5,*.example.com=4:10,*.www.example.com=1:1,example.com:9000=3:3,[::1]=5:0"
    named = [NamedLimit.parse(entry) for entry in said.split(",")]

    assert (named_limit(host, named) or DEFAULT) == limit


@pytest.mark.parametrize(
    "value",
    [
        "example.com",
        "example.com=0:1",
        "example.com=1:0.0000001",
        "a=1:1;b=2:2",
        "a=3000:1",
        "*=1:1",
        "x=1:1e9",
        "104.16.0.1/13=1:1",
        "104.16.0.0/33=1:1",
        "*.104.16.0.0/13=1:1",
        "example.com/8=1:1",
        "2001:db8::1/128=1:1",
        "104.16.0.0/13=0:1",
    ],
)
def test_a_limit_that_cannot_be_read_stops_the_start_and_is_named(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVER_HOST_LIMITS", value)

    with pytest.raises(SettingsInvalid, match="RETRIEVER_HOST_LIMITS"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOST_CONCURRENCY", "0"),
        ("HOST_RATE_PER_SECOND", "-1"),
        ("HOST_RATE_PER_SECOND", "nan"),
        ("HOST_RATE_PER_SECOND", "1e-9"),
        ("HOST_FAILURES", "-1"),
        ("CONTACT_URL", "https://example.com/(bot)"),
        ("CONTACT_URL", "javascript:alert(1)"),
        ("USER_AGENT", "two\nlines"),
    ],
)
def test_a_setting_out_of_bounds_stops_the_start_and_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"RETRIEVER_{name}", value)

    with pytest.raises(SettingsInvalid, match=f"RETRIEVER_{name}"):
        read_settings()


def test_the_user_agent_says_whom_to_ask() -> None:
    assert Settings().full_user_agent == "Retriever/0.1"
    assert (
        Settings(contact_url="https://example.com/bot").full_user_agent
        == "Retriever/0.1 (+https://example.com/bot)"
    )


@pytest.mark.parametrize("text", ["", ".", ":80", "a..:80/", "user@a", "a b", "::1", "a:65536", "a." * 128])
def test_what_is_no_host_is_named_by_nobody(text: str) -> None:
    with pytest.raises(ValueError, match="name"):
        host_named(text)
