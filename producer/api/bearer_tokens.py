"""Bearer tokens of an OpenID provider: JWTs (RFC 7519, RFC 9068), checked as RFC 8725 says.

Only algorithms that the operator names are taken, none of them symmetric; the key is the one that the token's
`kid` names among the provider's, and must be for that algorithm.
"""

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import aiohttp
import orjson
from joserfc import jws, jwt
from joserfc.errors import BadSignatureError, ClaimError, ExpiredTokenError, JoseError
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from producer.callers import DEFAULT_PROJECT, PROJECT_PATTERN, Caller, Scope
from shared.errors import RetrieverError
from shared.settings import Settings

logger = logging.getLogger(__name__)

PublicKey = RSAKey | ECKey | OKPKey

MAX_TOKEN_LENGTH: Final = 16_384
EVERY_PROJECT: Final = "*"
_LEEWAY_SECONDS = 60
_MAX_ACTOR_LENGTH = 200
_KEYS_KEPT_SECONDS = 600.0
# A token that names an unknown key has the provider asked again, but not more often than this.
_ASK_EVERY_SECONDS = 10.0
# Keys that cannot be read again still hold for so long.
_KEYS_HOLD_SECONDS = 86_400.0
_ANSWER_SECONDS = 5.0
# For so long keys that are old, and known, are given only after the provider was asked again.
_PATIENCE_SECONDS = 1.0
_MAX_ANSWER_BYTES = 1_048_576
# What was checked is remembered, for checking takes a fifth of a millisecond.
_REMEMBERED = 10_000
_REMEMBERED_SECONDS = 60.0


class ProviderUnavailable(RetrieverError):
    """The OpenID provider does not tell its keys, so nobody can say whether a token is good."""


class TokenRefused(RetrieverError):
    """A token is not good; the message says why, in words for its bearer."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    caller: Caller
    until: float
    expires_at: float


class BearerTokens:
    """Checks the tokens of one provider."""

    def __init__(self, settings: Settings) -> None:
        """Make a check that has not asked the provider yet. `RETRIEVER_OIDC_ISSUER` must be set."""
        assert settings.oidc_issuer is not None
        self._issuer = settings.oidc_issuer
        self._keys = ProviderKeys(self._issuer, settings.oidc_jwks_url)
        self._algorithms = [algorithm.value for algorithm in settings.oidc_algorithms]
        self._project_claim = settings.oidc_project_claim
        # Header fields that it does not know are left alone (RFC 7515 section 4), but for critical ones.
        self._registry = jws.JWSRegistry(algorithms=self._algorithms, strict_check_header=False)
        self._claims = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_SECONDS,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": settings.oidc_audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()

    async def check(self, text: str) -> Caller:
        """Return who bears a token.

        Raises:
            TokenRefused: it is not good.
            ProviderUnavailable: the provider's keys are not known.
        """
        if len(text) > MAX_TOKEN_LENGTH:
            raise TokenRefused("The token is too long")
        digest = sha256(text.encode()).digest()
        known = self._remembered.get(digest)
        if known is not None and time.monotonic() < known.until and time.time() < known.expires_at:
            return known.caller
        claims = await self._verified(text)
        caller = self._caller(claims)
        self._remember(digest, caller, float(claims["exp"]))
        return caller

    def _remember(self, digest: bytes, caller: Caller, expires_at: float) -> None:
        until = time.monotonic() + _REMEMBERED_SECONDS
        self._remembered[digest] = _Remembered(caller, until, expires_at + _LEEWAY_SECONDS)
        self._remembered.move_to_end(digest)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)

    async def _verified(self, text: str) -> Mapping[str, Any]:
        header = _header_of(text)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._algorithms:
            raise TokenRefused("The token is signed with an algorithm that is not taken here")
        if str(header.get("typ", "JWT")).lower().removeprefix("application/") not in {"jwt", "at+jwt"}:
            raise TokenRefused("The token is of another type than JWT")
        if not isinstance(key_id, str):
            raise TokenRefused("The token does not say by which key it is signed: it has no kid")
        key = await self._keys.find(key_id)
        if key is None:
            raise TokenRefused("The token is signed by a key that the provider does not have")
        if key.alg is not None and key.alg != algorithm:
            raise TokenRefused("The token's key is for another algorithm")
        try:
            token = jwt.decode(text, key, registry=self._registry)
            self._claims.validate(token.claims)
        except (JoseError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TokenRefused(_words_of(error)) from None
        return token.claims

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        project: str | None = claims.get(self._project_claim, DEFAULT_PROJECT)
        if project == EVERY_PROJECT:
            project = None
        elif not isinstance(project, str) or not re.fullmatch(PROJECT_PATTERN, project):
            raise TokenRefused(f"The token's claim {self._project_claim} is no name of a project")
        actor = f"subject:{claims['sub']}"[:_MAX_ACTOR_LENGTH]
        return Caller(actor, project, frozenset(_scopes_of(claims)))


class ProviderKeys:
    """The public keys of a provider, asked for when they are needed and kept for a while."""

    def __init__(self, issuer: str, jwks_url: str | None) -> None:
        """Know none yet.

        Args:
            issuer: Its metadata say where the keys are (OpenID Connect Discovery 1.0, section 4).
            jwks_url: Where they are, for a provider without such metadata.
        """
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._keys: Mapping[str, PublicKey] = {}
        self._asked_at = self._told_at = self._patient_until = float("-inf")
        # The question to the provider that is under way, or was the last; it ends after `_ANSWER_SECONDS`.
        self._asking: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> PublicKey | None:
        """Return a key; None when the provider has none of this id.

        The provider is asked once at a time. A key that is known does not wait long for an answer that is
        late, and not at all after one that did not come.

        Raises:
            ProviderUnavailable: it did not tell, neither now nor in the day before.
        """
        is_known = key_id in self._keys and not self._is_older(self._told_at, _KEYS_HOLD_SECONDS)
        if not is_known or self._is_older(self._told_at, _KEYS_KEPT_SECONDS):
            if self._is_older(self._asked_at, _ASK_EVERY_SECONDS) and not self._is_asking:
                self._begin_asking()
            if self._asking is not None:
                patience = max(self._patient_until - time.monotonic(), 0.0) if is_known else None
                await asyncio.wait([self._asking], timeout=patience)
        if self._is_older(self._told_at, _KEYS_HOLD_SECONDS):
            raise ProviderUnavailable("The OpenID provider does not tell its keys")
        return self._keys.get(key_id)

    @property
    def _is_asking(self) -> bool:
        return self._asking is not None and not self._asking.done()

    def _begin_asking(self) -> None:
        now, was_told = time.monotonic(), self._told_at >= self._asked_at
        self._patient_until = now + _PATIENCE_SECONDS if was_told else now
        self._asked_at = now
        self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS), aiohttp.ClientSession(trust_env=False) as session:
                url = self._jwks_url or await self._find_jwks_url(session)
                self._keys = _usable_keys(await _read_json(session, url))
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError, JoseError) as error:
            logger.warning(
                "provider_keys_not_read", extra={"issuer": self._issuer, "error": repr(error)[:300]}
            )
            return
        self._told_at = time.monotonic()

    async def _find_jwks_url(self, session: aiohttp.ClientSession) -> str:
        metadata = await _read_json(session, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if metadata["issuer"] != self._issuer:
            raise ValueError("the metadata are of another issuer")
        return str(metadata["jwks_uri"])

    @staticmethod
    def _is_older(moment: float, seconds: float) -> bool:
        return time.monotonic() - moment > seconds


async def _read_json(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url, allow_redirects=False, raise_for_status=True) as answer:
        body = await answer.content.read(_MAX_ANSWER_BYTES)
        if not answer.content.at_eof():
            raise ValueError("the answer is too large")
    document = orjson.loads(body)
    if not isinstance(document, dict):
        raise TypeError("the answer is no JSON object")
    return document


def _usable_keys(document: Mapping[str, Any]) -> dict[str, PublicKey]:
    """Return the keys that check signatures, by their ids. Symmetric ones are nobody's to publish."""
    keys: dict[str, PublicKey] = {}
    for each in document["keys"]:
        try:
            key = KeySet.import_key_set({"keys": [each]}).keys[0]
        except (JoseError, ValueError, TypeError, KeyError):
            # One that we cannot read takes nothing from the others.
            continue
        if isinstance(key, PublicKey) and key.kid is not None and each.get("use", "sig") == "sig":
            keys[key.kid] = key
    return keys


def _header_of(text: str) -> Mapping[str, Any]:
    try:
        return jws.extract_compact(text.encode()).headers()
    except (JoseError, ValueError, TypeError, RecursionError):
        raise TokenRefused("The token is neither a key of this service nor a JWT") from None


def _scopes_of(claims: Mapping[str, Any]) -> list[Scope]:
    said = claims.get("scope", claims.get("scp", ""))
    names = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
    return [scope for scope in Scope if scope in names]


def _words_of(error: Exception) -> str:
    match error:
        case ExpiredTokenError():
            return "The token has expired"
        case BadSignatureError():
            return "The token's signature is not the provider's"
        case ClaimError():
            return f"The token's claim {error.claim} is missing or not the one that is wanted here"
        case _:
            return "The token cannot be read"
