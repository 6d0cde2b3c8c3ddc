"""Secrets that come with a job: opened for their own origin, sent there alone, and why when they are not."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from consumer.executor import Attempt
from consumer.handlers.check import check
from consumer.handlers.fetch import fetch
from consumer.handlers.webhook import send_webhook
from consumer.http.client import Client
from consumer.secrets import Secrets, Signer, secret_folder
from consumer.settlement import decide, settlement_message
from deploy.local.target_site import TargetSite, open_target
from shared.encryption import EncryptionKeys
from shared.identity import new_id
from shared.kinds.check import CheckArgs
from shared.kinds.fetch import FetchArgs
from shared.kinds.webhook import WebhookArgs
from shared.messages import JobMessage
from shared.outcomes import Failed, Outcome, Succeeded
from shared.retry import RetryPolicy
from shared.sealed import SealedSecret, SecretUse
from shared.urls import origin_words
from tests.support.factories import NOON, make_webhook_secret
from tests.support.http_servers import RawServer, client_that_reaches_loopback, raw_server
from tests.support.secrets import KEYS, make_secret

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
VALUE = "s3cr3t-marked"
AUTH = {"type": "bearer", "token": {"secret": "crm"}}


@pytest.fixture(params=[False, True], ids=["fast", "plain"])
async def client(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with client_that_reaches_loopback(secrets=Secrets(tmp_path, KEYS), plain=request.param) as opened:
        yield opened


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with raw_server(OK) as running:
        yield running


def sealed(*origins: str, value: str = VALUE, name: str = "crm", **more: Any) -> tuple[SealedSecret, ...]:
    return make_secret(name, value, *map(origin_words, origins), **more).sealed(NOON)


async def fetch_with(
    client: Client, url: str, boxes: Iterable[SealedSecret], *, project: str | None = None, **args: Any
) -> Outcome:
    job = JobMessage(id=new_id(), kind="fetch", args={}, sealed=tuple(boxes) or None, project=project)
    asked = FetchArgs.model_validate({"url": url, "auth": AUTH, **args})
    return await fetch(asked, replace(client, job=job))


def failed(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed), outcome
    return outcome


async def test_a_secret_is_sent_to_the_origin_that_it_is_for(client: Client, server: RawServer) -> None:
    outcome = await fetch_with(client, server.url, sealed(server.url, "https://b.example"))

    assert isinstance(outcome, Succeeded)
    assert f"Authorization: Bearer {VALUE}" in server.heads[0]


async def test_a_check_takes_it_in_a_header_too(client: Client, server: RawServer) -> None:
    args = CheckArgs.model_validate(
        {"url": server.url, "method": "GET", "headers": {"X-Key": {"secret": "crm"}}}
    )
    job = JobMessage(id=new_id(), kind="check", args={}, sealed=sealed(server.url))

    await check(args, replace(client, job=job))

    assert f"X-Key: {VALUE}" in server.heads[0]


@pytest.mark.parametrize(
    "origin",
    ["https://127.0.0.1:{port}", "http://127.0.0.1", "http://127.0.0.1:1{port}", "http://localhost:{port}"],
)
async def test_a_secret_of_another_scheme_port_or_host_is_not_sent(
    client: Client, server: RawServer, origin: str
) -> None:
    port = str(server.port)[-4:] if "1{port}" in origin else server.port
    bound = origin.format(port=port)

    outcome = failed(await fetch_with(client, server.url, sealed(bound)))

    assert (outcome.reason, outcome.transient) == ("secret_elsewhere", False)
    assert bound in outcome.explanation and server.url.rstrip("/") in outcome.explanation
    assert server.heads == []


@pytest.mark.parametrize("also", [False, True], ids=["for one", "for both"])
async def test_a_secret_is_not_sent_after_a_redirect_to_another_origin(client: Client, also: bool) -> None:
    async with raw_server(OK) as other:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {other.url}\r\nContent-Length: 0\r\n\r\n".encode()
        async with raw_server(moved) as own:
            origins = [own.url, other.url] if also else [own.url]

            outcome = await fetch_with(client, own.url, sealed(*origins))

            assert isinstance(outcome, Succeeded)
            assert VALUE in own.heads[0] and VALUE not in other.heads[0]


async def test_a_secret_that_the_target_sends_back_is_masked(client: Client) -> None:
    body = f'{{"you_sent": "{VALUE}"}}'.encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    async with raw_server(head + body) as server:
        outcome = await fetch_with(client, server.url, sealed(server.url))

    assert isinstance(outcome, Succeeded) and VALUE not in repr(outcome)
    assert "***" in repr(outcome.result)


@pytest.mark.parametrize(
    ("project", "change", "said"),
    [
        # It says that it is of another project, is called otherwise, or is for more.
        ("web", {}, "bound to another project, name or origin"),
        (None, {"name": "other"}, "bound to another project, name or origin"),
        (None, {"origins": "more"}, "bound to another project, name or origin"),
        (None, {"box": "AAAA"}, "not what was sealed"),
        (None, {"box": "%%%"}, "not what was sealed"),
    ],
)
async def test_a_box_that_was_changed_or_moved_is_not_opened(
    client: Client, server: RawServer, project: str | None, change: dict[str, Any], said: str
) -> None:
    (box,) = sealed(server.url)
    if change.get("origins"):
        change = {"origins": (*box.origins, "https://evil.example")}
    moved = box.model_copy(update=change)
    auth = {"type": "bearer", "token": {"secret": moved.name}}

    outcome = failed(await fetch_with(client, server.url, [moved], project=project, auth=auth))

    assert (outcome.reason, outcome.transient) == ("secret_unreadable", False)
    assert said in outcome.explanation and f"'{moved.name}'" in outcome.explanation
    assert server.heads == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (EncryptionKeys(), "there are no encryption keys here: set RETRIEVER_ENCRYPTION_KEYS_FILE"),
        (EncryptionKeys([b"n" * 32]), "which the file of encryption keys here lacks"),
    ],
)
async def test_a_worker_without_the_key_says_so_and_sends_nothing(
    client: Client, server: RawServer, keys: EncryptionKeys, said: str
) -> None:
    other = replace(client, secrets=Secrets(client.secrets.folder, keys))

    outcome = failed(await fetch_with(other, server.url, sealed(server.url)))

    assert outcome.reason == "secret_unreadable" and said in outcome.explanation
    assert server.heads == []


async def test_a_secret_that_nobody_has_is_named_with_both_places(client: Client, server: RawServer) -> None:
    outcome = failed(await fetch_with(client, server.url, [], project="docs"))

    assert (outcome.reason, outcome.transient) == ("secret_missing", False)
    assert "RETRIEVER_SECRETS_DIR" in outcome.explanation and "project 'docs'" in outcome.explanation
    assert server.heads == []


async def test_a_file_serves_where_the_project_has_none_and_the_projects_goes_first(
    client: Client, server: RawServer, tmp_path: Path
) -> None:
    folder = tmp_path / str(secret_folder(server.url))
    folder.mkdir()
    (folder / "crm").write_text("of the file")

    await fetch_with(client, server.url, [])
    await fetch_with(client, server.url, sealed(server.url))
    elsewhere = failed(await fetch_with(client, server.url, sealed("https://b.example")))

    assert ["of the file" in head for head in server.heads] == [True, False]
    assert VALUE in server.heads[1]
    assert elsewhere.reason == "secret_elsewhere"


def test_a_parked_copy_has_no_secrets_and_a_delayed_one_keeps_them() -> None:
    boxes = sealed("https://a.example")
    job = JobMessage(id=new_id(), kind="fetch", args={}, sealed=boxes, retry=RetryPolicy(max_attempts=2))
    outcomes = [Failed("http_500", "It failed.", transient=transient) for transient in (True, False)]
    attempts = [Attempt(NOON, NOON, outcome) for outcome in outcomes]

    delayed, parked = (
        JobMessage.decode(
            settlement_message(job, each, decide(job, each, random=lambda: 0.5), worker="w").body
        )
        for each in attempts
    )

    assert (delayed.sealed, parked.sealed) == (boxes, None)


OURS, THEIRS, OLD = make_webhook_secret(), make_webhook_secret(), make_webhook_secret()


@pytest.fixture
async def site() -> AsyncIterator[TargetSite]:
    async with open_target() as running:
        yield running


async def send(client: Client, site: TargetSite, boxes: Iterable[SealedSecret]) -> Outcome:
    job = JobMessage(id=new_id(), kind="webhook", args={}, sealed=tuple(boxes) or None)
    args = WebhookArgs(url=f"{site.url}/hooks/a", type="a.b", timestamp=NOON, data={}, timeout_seconds=5)
    signer = Signer([SecretStr(OURS)])
    return await send_webhook(args, replace(client, job=job, signer=signer))


def verified_by(site: TargetSite) -> list[str]:
    found = []
    (call,) = site.state.hooks["a"]
    for name, secret in (("ours", OURS), ("theirs", THEIRS), ("old", OLD)):
        try:
            Webhook(secret).verify(call.body, call.headers)
        except WebhookVerificationError:
            continue
        found.append(name)
    return found


def signing(site: TargetSite, value: str, **more: Any) -> tuple[SealedSecret, ...]:
    return sealed(site.url, value=value, use=SecretUse.WEBHOOK, **more)


async def test_a_receiver_with_a_secret_of_its_own_cannot_be_deceived_with_the_common_one(
    client: Client, site: TargetSite
) -> None:
    assert isinstance(await send(client, site, signing(site, THEIRS)), Succeeded)

    assert verified_by(site) == ["theirs"]


async def test_while_a_secret_is_rotated_both_verify(client: Client, site: TargetSite) -> None:
    await send(client, site, [*signing(site, THEIRS), *signing(site, OLD)])

    assert verified_by(site) == ["theirs", "old"]


async def test_a_receiver_without_one_gets_what_the_installation_signs(
    client: Client, site: TargetSite
) -> None:
    # What is for requests signs nothing.
    await send(client, site, sealed(site.url))

    assert verified_by(site) == ["ours"]


async def test_a_webhook_whose_own_secret_does_not_open_is_not_sent_with_another_signature(
    client: Client, site: TargetSite
) -> None:
    outcome = failed(await send(client, site, signing(site, THEIRS, keys=EncryptionKeys([b"n" * 32]))))

    assert outcome.reason == "secret_unreadable"
    assert site.state.hooks == {}
