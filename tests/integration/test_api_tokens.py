"""Tokens of an OpenID provider: which are taken, and which of the known forgeries are not."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey

from producer.api import bearer_tokens
from producer.api.bearer_tokens import BearerTokens, ProviderUnavailable, TokenRefused
from producer.callers import Scope
from shared.settings import Settings
from tests.support.api import running_api
from tests.support.keys import bearer, make_key
from tests.support.provider import AUDIENCE, Provider, rsa_key, running_provider

KEY = rsa_key("first")
OTHER = rsa_key("second")
EC = ECKey.generate_key("P-256", {"kid": "curve", "use": "sig"})
ED = OKPKey.generate_key("Ed25519", {"kid": "edwards", "use": "sig"})


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as running:
        running.publish(KEY)
        yield running


@pytest.fixture
def tokens(provider: Provider) -> BearerTokens:
    return BearerTokens(settings_of(provider))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the provider be asked again at once."""
    monkeypatch.setattr(bearer_tokens, "_ASK_EVERY_SECONDS", 0.0)


def settings_of(provider: Provider, **changed: Any) -> Settings:
    return Settings(**({"oidc_issuer": provider.issuer, "oidc_audience": AUDIENCE} | changed))


async def refusal(tokens: BearerTokens, text: str) -> str:
    with pytest.raises(TokenRefused) as refused:
        await tokens.check(text)
    return str(refused.value)


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


async def test_a_good_token_says_who_its_bearer_is_and_what_they_may_do(
    provider: Provider, tokens: BearerTokens
) -> None:
    caller = await tokens.check(provider.token(KEY, project="docs"))

    assert (caller.actor, caller.project) == ("subject:ann", "docs")
    assert caller.scopes == {Scope.JOBS_READ, Scope.JOBS_WRITE}


@pytest.mark.parametrize(
    ("claims", "project", "scopes"),
    [
        ({"scope": None, "scp": "jobs:read"}, "default", {Scope.JOBS_READ}),
        ({"scope": None, "scp": ["jobs:read", "tasks:pick"]}, "default", {Scope.JOBS_READ, Scope.TASKS_PICK}),
        ({"scope": None}, "default", set()),
        ({"scope": 5}, "default", set()),
        ({"project": "*"}, None, {Scope.JOBS_READ, Scope.JOBS_WRITE}),
        ({"aud": ["other", AUDIENCE]}, "default", {Scope.JOBS_READ, Scope.JOBS_WRITE}),
    ],
)
async def test_scopes_and_project_are_read_from_the_claims(
    provider: Provider, tokens: BearerTokens, claims: dict[str, Any], project: str | None, scopes: set[Scope]
) -> None:
    caller = await tokens.check(provider.token(KEY, **claims))

    assert (caller.project, set(caller.scopes)) == (project, scopes)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://elsewhere.example"}, "The token's claim iss is missing or not the one"),
        ({"iss": None}, "The token's claim iss is missing"),
        ({"aud": "other"}, "The token's claim aud is missing or not the one"),
        ({"aud": None}, "The token's claim aud is missing"),
        ({"exp": 1}, "The token has expired"),
        ({"exp": None}, "The token's claim exp is missing"),
        ({"exp": "soon"}, "The token's claim exp is missing or not the one"),
        ({"nbf": 32_503_680_000}, "The token's claim nbf is missing or not the one"),
        ({"sub": None}, "The token's claim sub is missing"),
        ({"project": "Docs!"}, "The token's claim project is no name of a project"),
        ({"project": 5}, "The token's claim project is no name of a project"),
    ],
)
async def test_a_token_whose_claims_are_not_for_us_is_refused(
    provider: Provider, tokens: BearerTokens, claims: dict[str, Any], why: str
) -> None:
    assert (await refusal(tokens, provider.token(KEY, **claims))).startswith(why)


async def test_an_unsigned_token_is_refused(provider: Provider, tokens: BearerTokens) -> None:
    for algorithm in ("none", "None", "NONE", ""):
        header = encoded({"alg": algorithm, "kid": "first"})
        text = f"{header}.{encoded(provider.claims())}."

        assert await refusal(tokens, text) == "The token is signed with an algorithm that is not taken here"


async def test_the_providers_public_key_is_no_shared_secret(provider: Provider, tokens: BearerTokens) -> None:
    for public in (KEY.as_pem(private=False), KEY.as_der(private=False)):
        # By hand: the library does not sign with it.
        signed = f"{encoded({'alg': 'HS256', 'kid': 'first'})}.{encoded(provider.claims())}"
        mac = hmac.digest(public, signed.encode(), "sha256")
        text = f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"

        assert await refusal(tokens, text) == "The token is signed with an algorithm that is not taken here"


async def test_a_symmetric_key_that_a_provider_publishes_by_mistake_opens_nothing(
    provider: Provider,
) -> None:
    secret = OctKey.generate_key(256, {"kid": "shared"})
    provider.publish(KEY, secret)
    tokens = BearerTokens(settings_of(provider))

    assert "algorithm" in await refusal(tokens, provider.token(secret, header={"alg": "HS256"}))
    assert (await tokens.check(provider.token(KEY))).actor == "subject:ann"


async def test_a_key_checks_only_what_it_was_made_for(provider: Provider) -> None:
    provider.publish(KEY, EC)
    tokens = BearerTokens(settings_of(provider, oidc_algorithms="RS256 ES256"))
    good = provider.token(EC, header={"alg": "ES256"})
    header = encoded({"alg": "RS256", "kid": "curve"})

    assert (await tokens.check(good)).actor == "subject:ann"
    assert await refusal(tokens, ".".join([header, *good.split(".")[1:]])) == "The token cannot be read"


async def test_another_algorithm_than_the_operators_is_refused(provider: Provider) -> None:
    provider.publish(KEY, ED)
    tokens = BearerTokens(settings_of(provider))

    assert "algorithm" in await refusal(tokens, provider.token(KEY, header={"alg": "RS512"}))
    assert "algorithm" in await refusal(tokens, provider.token(ED, header={"alg": "Ed25519"}))
    modern = BearerTokens(settings_of(provider, oidc_algorithms="Ed25519"))
    assert (await modern.check(provider.token(ED, header={"alg": "Ed25519"}))).actor == "subject:ann"


async def test_a_token_of_an_unknown_key_or_without_a_key_is_refused(
    provider: Provider, tokens: BearerTokens
) -> None:
    forged = provider.token(OTHER, header={"kid": "first"})

    assert "does not have" in await refusal(tokens, provider.token(OTHER))
    assert await refusal(tokens, forged) == "The token's signature is not the provider's"
    assert "no kid" in await refusal(tokens, provider.token(KEY, header={"kid": None}))


async def test_a_token_that_was_changed_is_refused(provider: Provider, tokens: BearerTokens) -> None:
    header, _, signature = provider.token(KEY).split(".")
    more = encoded(provider.claims(scope="jobs:read keys:admin"))

    assert "signature" in await refusal(tokens, f"{header}.{more}.{signature}")


@pytest.mark.parametrize(
    "text", ["", "a", "a.b.c", "..", "e30.e30.", "é", "a" * 20_000, "eyJhbGciOiJSUzI1NiJ9", "[" * 5_000]
)
async def test_what_is_no_token_is_refused(tokens: BearerTokens, text: str) -> None:
    assert await refusal(tokens, text)


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"], "exp": 1}, {"b64": False, "crit": ["b64"]}, {"typ": "secevent+jwt"}]
)
async def test_a_token_with_a_header_that_must_be_understood_is_refused(
    provider: Provider, tokens: BearerTokens, header: dict[str, Any]
) -> None:
    _, payload, signature = provider.token(KEY).split(".")
    first = encoded({"alg": "RS256", "kid": "first"} | header)

    assert await refusal(tokens, f"{first}.{payload}.{signature}")


async def test_keys_in_the_header_of_a_token_are_not_believed(
    provider: Provider, tokens: BearerTokens
) -> None:
    own = {"jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/chain", "kid": "first"}

    assert "signature" in await refusal(tokens, provider.token(OTHER, header=own))


@pytest.mark.usefixtures("impatient")
async def test_keys_are_asked_for_once_and_again_when_the_provider_has_new_ones(
    provider: Provider, tokens: BearerTokens
) -> None:
    for _ in range(3):
        await tokens.check(provider.token(KEY, jti=str(time.monotonic_ns())))
    assert provider.asked == 1

    provider.publish(OTHER)
    assert (await tokens.check(provider.token(OTHER))).actor == "subject:ann"
    assert provider.asked == 2
    assert "does not have" in await refusal(tokens, provider.token(KEY, jti="new"))


async def test_unknown_keys_do_not_have_the_provider_asked_each_time(
    provider: Provider, tokens: BearerTokens
) -> None:
    await tokens.check(provider.token(KEY))
    for number in range(20):
        await refusal(tokens, provider.token(OTHER, header={"kid": f"unknown-{number}"}))

    assert provider.asked <= 2


@pytest.mark.usefixtures("impatient")
async def test_a_provider_that_is_away_is_said_and_keys_that_are_known_hold(
    provider: Provider, tokens: BearerTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.status = 500
    with pytest.raises(ProviderUnavailable):
        await tokens.check(provider.token(KEY))

    provider.status = 200
    await tokens.check(provider.token(KEY))
    provider.status = 500
    monkeypatch.setattr(bearer_tokens, "_KEYS_KEPT_SECONDS", 0.0)
    assert (await tokens.check(provider.token(KEY, jti="while it is away"))).actor == "subject:ann"


async def test_a_provider_that_hangs_holds_up_nobody_whose_key_is_known(
    provider: Provider, tokens: BearerTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tokens.check(provider.token(KEY))
    provider.answers.clear()
    provider.publish(OTHER)
    monkeypatch.setattr(bearer_tokens, "_KEYS_KEPT_SECONDS", 0.0)
    monkeypatch.setattr(bearer_tokens, "_PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(bearer_tokens, "_ANSWER_SECONDS", 600.0)
    monkeypatch.setattr(bearer_tokens, "_ASK_EVERY_SECONDS", 0.0)

    strangers = [
        asyncio.create_task(refusal(tokens, provider.token(OTHER, header={"kid": f"unknown-{number}"})))
        for number in range(5)
    ]
    callers = await asyncio.gather(*(tokens.check(provider.token(KEY, jti=str(n))) for n in range(20)))

    assert {caller.actor for caller in callers} == {"subject:ann"}
    assert not any(stranger.done() for stranger in strangers)
    monkeypatch.setattr(bearer_tokens, "_ASK_EVERY_SECONDS", 600.0)
    provider.answers.set()
    assert all("does not have" in why for why in await asyncio.gather(*strangers))
    assert provider.asked == 2
    assert "does not have" in await refusal(tokens, provider.token(KEY, jti="after it was told"))


async def test_nobody_waits_for_a_provider_again_that_has_just_not_answered(
    provider: Provider, tokens: BearerTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tokens.check(provider.token(KEY))
    provider.answers.clear()
    monkeypatch.setattr(bearer_tokens, "_KEYS_KEPT_SECONDS", 0.0)
    monkeypatch.setattr(bearer_tokens, "_ASK_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(bearer_tokens, "_ANSWER_SECONDS", 0.05)
    assert "does not have" in await refusal(tokens, provider.token(OTHER))
    monkeypatch.setattr(bearer_tokens, "_ANSWER_SECONDS", 600.0)
    monkeypatch.setattr(bearer_tokens, "_PATIENCE_SECONDS", 600.0)

    assert (await tokens.check(provider.token(KEY, jti="again"))).actor == "subject:ann"
    monkeypatch.setattr(bearer_tokens, "_ASK_EVERY_SECONDS", 600.0)
    monkeypatch.setattr(bearer_tokens, "_KEYS_KEPT_SECONDS", 600.0)
    provider.answers.set()


async def test_a_remembered_token_expires_all_the_same(
    provider: Provider, tokens: BearerTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = provider.token(KEY)
    await tokens.check(text)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 661)

    assert await refusal(tokens, text) == "The token has expired"


def test_tokens_and_keys_open_the_api_and_nothing_is_open_without(provider: Provider, tmp_path: Any) -> None:
    settings = settings_of(provider, database_url=f"sqlite:///{tmp_path / 'retriever.db'}")
    job = {"kind": "check", "args": {"url": "https://example.com/"}}
    with running_api(settings) as api:
        key = make_key(api.store, "ci", [Scope.JOBS_WRITE])
        made = api.client.post("/jobs", json=job, headers=bearer(provider.token(KEY)))
        refused = [
            api.client.post("/jobs", json=job),
            api.client.post("/jobs", json=job, headers=bearer(provider.token(KEY, aud="other"))),
        ]
        cancelled = api.client.post(
            f"/jobs/{made.json()['id']}/cancel",
            headers=bearer(provider.token(KEY, scope="jobs:operate")) | {"Retriever-Actor": "for bob"},
        )
        by_key = api.client.post("/jobs", json=job, headers=bearer(key))
        log = api.client.get("/audit", headers=bearer(provider.token(KEY))).json()["items"]

    assert (made.status_code, cancelled.status_code, by_key.status_code) == (202, 202, 202)
    assert [answer.status_code for answer in refused] == [401, 401]
    assert 'error="invalid_token"' in refused[1].headers["www-authenticate"]
    assert [entry["by"] for entry in log if entry["action"] == "job_cancelled"] == ["subject:ann (for bob)"]


def test_a_provider_that_is_away_is_no_fault_of_the_caller(provider: Provider, tmp_path: Any) -> None:
    provider.status = 500
    settings = settings_of(provider, database_url=f"sqlite:///{tmp_path / 'retriever.db'}")
    with running_api(settings) as api:
        answer = api.client.get("/jobs", headers=bearer(provider.token(KEY)))

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["detail"] == "The OpenID provider does not tell its keys."


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"oidc_issuer": "https://login.example.com"}, "must be set where RETRIEVER_OIDC_ISSUER is"),
        ({"oidc_issuer": "http://login.example.com", "oidc_audience": "a"}, "must be https"),
        ({"oidc_issuer": "https://a:b@login.example.com", "oidc_audience": "a"}, "must look like"),
        ({"oidc_algorithms": "HS256"}, "RS256"),
        ({"oidc_algorithms": "none"}, "RS256"),
        ({"oidc_algorithms": ""}, "at least 1"),
    ],
)
def test_settings_that_would_let_strangers_in_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Settings(**settings)
