"""Who sends a request and whether they may: what connexion asks before each operation.

The contract names the scope of each operation. A caller shows a key of ours, or a token of the OpenID
provider, as a bearer token (RFC 6750). Nobody needs one while the API listens on loopback, is called from
loopback, and no key was ever made.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from connexion.lifecycle import ConnexionRequest
from connexion.security import AbstractSecurityHandler
from starlette.requests import Request

from producer.api.bearer_tokens import BearerTokens, ProviderUnavailable, TokenRefused
from producer.api.key_ring import KeyRing
from producer.api.problems import RETRY_AFTER_SECONDS, HttpProblem
from producer.api.rate_limits import RateLimits
from producer.api.refusals import Refusal, Refusals, client_of
from producer.api.requests import CALLER, read_caller
from producer.callers import NOBODY, Caller, Scope, runs_program
from producer.keys import PREFIX
from producer.store.database import Database
from producer.store.secret_keys import API_KEYS, find_key
from shared.errors import SettingsInvalid, StoreUnavailable
from shared.listening import is_loopback
from shared.settings import AuthMode, Settings

logger = logging.getLogger(__name__)

_SCHEME = "bearer"
_REALM = 'Bearer realm="retriever"'

Verify = Callable[[ConnexionRequest], Awaitable[Mapping[str, Any]]]


def _says_who_gets_in(settings: Settings) -> bool:
    """Return whether the operator has said that nobody gets in without a key, or a token of a provider."""
    return settings.auth is AuthMode.REQUIRED or settings.oidc_issuer is not None


def _is_for_others(settings: Settings) -> bool:
    """Return whether the API listens for other machines."""
    hosts = (settings.api_host, *((settings.agent_host,) if settings.agent_port else ()))
    return not all(is_loopback(host) for host in hosts)


def check_closed(database: Database, settings: Settings) -> None:
    """Do nothing if the API may listen where it shall: beyond loopback somebody must be able to get in.

    Raises:
        SettingsInvalid: it would listen for other machines, and no key was ever made.
    """
    if _says_who_gets_in(settings) or not _is_for_others(settings):
        return
    try:
        any_made = database.read(find_key, API_KEYS) is not None
    except StoreUnavailable:
        # It may come back; until then nobody gets in, as without a key.
        return
    if not any_made:
        raise SettingsInvalid(
            f"RETRIEVER_API_HOST: {settings.api_host} is open to other machines, and no key was made yet. "
            "Make one: `python -m producer keys create first --every-scope`. Or set RETRIEVER_AUTH=required "
            "and make it later; until then nobody gets in."
        )


class Gate:
    """Finds out who sends a request."""

    def __init__(self, ring: KeyRing, settings: Settings, refusals: Refusals, limits: RateLimits) -> None:
        self._ring = ring
        self._limits = limits
        self._tokens = BearerTokens(settings) if settings.oidc_issuer else None
        self._refusals = refusals
        self._asks_everybody = _says_who_gets_in(settings) or _is_for_others(settings)

    def handler(self) -> "_Handler":
        """Return what connexion asks for each operation."""
        return _Handler(self)

    async def admit(self, request: Request, needed: frozenset[Scope]) -> Caller:
        """Return who sends a request, if they may do what takes some scopes.

        Raises:
            HttpProblem: 401: nobody knows who it is. 403: they may not. 429: they have sent too many.
                503: nobody can say now.
        """
        caller = await self._find(request)
        self._limits.charge(caller, request)
        if missing := needed - caller.scopes:
            raise self._forbidden(request, caller, missing)
        return caller

    async def admit_session(self, request: Request, key_start: str | None) -> Caller | None:
        """Return whose session in a browser it is; None when somebody has to sign in first.

        Args:
            key_start: The start of the key that the session was begun with; None before anybody signed in.

        Raises:
            HttpProblem: 401: an `Authorization` that comes along is no good. 429: they have sent too many.
            StoreUnavailable: nobody can say now.
        """
        if any(name == b"authorization" for name, _ in request.scope["headers"]):
            return await self.admit(request, frozenset())
        caller = None if key_start is None else await self._ring.bearer_of(key_start)
        if caller is None and await self._is_open(request):
            caller = NOBODY
        if caller is not None:
            self._limits.charge(caller, request)
        return caller

    async def knows_key(self, request: Request, text: str) -> bool:
        """Return whether the text is that of a key that opens something; what is none is counted."""
        if await self._ring.find(text) is not None:
            return True
        self._refusals.count(Refusal.UNKNOWN_CALLER, client=client_of(request.scope))
        return False

    async def _find(self, request: Request) -> Caller:
        # As they came: reading all fields of a request would take longer than all else here.
        match [value for name, value in request.scope["headers"] if name == b"authorization"]:
            case []:
                if await self._is_open(request):
                    return NOBODY
                raise self._unknown(request, "Send a key: Authorization: Bearer rtv_…")
            case [value]:
                scheme, _, text = value.decode("latin-1").partition(" ")
                if scheme.lower() != _SCHEME:
                    raise self._unknown(request, "Authorization must be Bearer and a key")
                return await self._bearer(request, text.strip())
            case _:
                raise self._unknown(request, "Authorization must be sent once", error="invalid_request")

    async def _bearer(self, request: Request, text: str) -> Caller:
        if text.startswith(PREFIX) or self._tokens is None:
            if (caller := await self._ring.find(text)) is None:
                why = "No live key has this text: it was never one, has expired, or was revoked or rotated"
                raise self._unknown(request, why, error="invalid_token")
            return caller
        try:
            return await self._tokens.check(text)
        except TokenRefused as error:
            raise self._unknown(request, str(error), error="invalid_token") from None
        except ProviderUnavailable as error:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            raise HttpProblem(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}.", headers=headers) from None

    async def _is_open(self, request: Request) -> bool:
        """Return whether nobody has to say who they are."""
        # What a proxy on this machine passes on comes from elsewhere.
        is_local = is_loopback(client_of(request.scope))
        return not self._asks_everybody and is_local and not await self._ring.any_made()

    def _unknown(self, request: Request, why: str, *, error: str = "") -> HttpProblem:
        """Return the problem of a request whose sender is not known (RFC 6750 section 3)."""
        self._refusals.count(Refusal.UNKNOWN_CALLER, client=client_of(request.scope))
        challenge = f'{_REALM}, error="{error}"' if error else _REALM
        status = HTTPStatus.UNAUTHORIZED
        return HttpProblem(status, f"{why}.", headers={"WWW-Authenticate": challenge})

    def _forbidden(self, request: Request, caller: Caller, missing: frozenset[Scope]) -> HttpProblem:
        self._refusals.count(Refusal.SCOPE, client=client_of(request.scope), what=caller.actor)
        return scope_missing(caller, missing)


class _Handler(AbstractSecurityHandler):  # type: ignore[misc]
    """Asks the gate; connexion makes one for each operation, with the scopes that the contract names."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def get_fn(self, security_scheme: Mapping[str, Any], required_scopes: list[str]) -> Verify:
        """Return what is asked for each request of an operation."""
        needed = frozenset(Scope(name) for name in required_scopes)

        async def verify(request: ConnexionRequest) -> Mapping[str, Any]:
            caller = await self._gate.admit(request._starlette_request, needed)  # noqa: SLF001
            request.scope[CALLER] = caller
            return {"sub": caller.actor}

        return verify


def check_may_run(request: Request, kind: str, arguments: Iterable[object]) -> None:
    """Do nothing if whoever sends a request may hand in jobs of a kind with these arguments.

    Raises:
        HttpProblem: 403: one of them runs a program, which takes a scope of its own.
    """
    if runs_program(kind, arguments):
        check_scopes(request, Scope.COMMANDS_RUN)


def check_scopes(request: Request, *needed: Scope) -> None:
    """Do nothing if whoever sends a request has some scopes.

    Raises:
        HttpProblem: 403: they lack one.
    """
    caller = read_caller(request)
    if missing := frozenset(needed) - caller.scopes:
        raise scope_missing(caller, missing)


def scope_missing(caller: Caller, missing: frozenset[Scope]) -> HttpProblem:
    """Return the problem of a caller who may not do something (RFC 6750 section 3.1)."""
    names = " ".join(sorted(missing))
    challenge = f'{_REALM}, error="insufficient_scope", scope="{names}"'
    detail = f"This takes the scope {names}, which {caller.actor} does not have."
    return HttpProblem(HTTPStatus.FORBIDDEN, detail, headers={"WWW-Authenticate": challenge})
