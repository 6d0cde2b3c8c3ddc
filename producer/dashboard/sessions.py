"""Sessions in a browser: what its cookie says, signed, and the token that its forms carry. Pure.

The cookie has the start of a key, never its text, so that every request asks whether the key still opens
something. Any process of the installation reads the cookies of any other: they share the signing key.
"""

import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final, Self

from itsdangerous import BadSignature, Signer, URLSafeTimedSerializer

from producer.keys import START_CHARACTERS

SIGNING_KEY: Final = "dashboard_sessions"
"""The name of the signing key in the store."""
SIGNING_KEY_BYTES: Final = 32
SESSION_SECONDS: Final = 12 * 3_600
"""From then on somebody has to sign in again."""

_COOKIE = "retriever_session"
_PATH = "/dashboard/"
_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Session:
    """One browser's session.

    Attributes:
        id: Random; the token of its forms is made of it.
        key_start: The start of the key that somebody signed in with; None for nobody.
    """

    id: str
    key_start: str | None = None

    @classmethod
    def new(cls, key_start: str | None = None) -> Self:
        """Return a session that no browser has had."""
        return cls(secrets.token_urlsafe(_ID_BYTES), key_start)


class SessionCookies:
    """Writes sessions into cookies, and reads those that this installation wrote."""

    def __init__(self, signing_key: bytes) -> None:
        self._sessions = URLSafeTimedSerializer(signing_key, salt="retriever.dashboard.session")
        self._tokens = Signer(signing_key, salt="retriever.dashboard.form")

    def read(self, header: str, *, max_age_seconds: int = SESSION_SECONDS) -> Session | None:
        """Return the session in a `Cookie` header; None when it has none of ours, or its time is over."""
        try:
            cookie = SimpleCookie(header).get(_COOKIE)
        except CookieError:
            return None
        if cookie is None:
            return None
        try:
            said = self._sessions.loads(cookie.value, max_age=max_age_seconds)
        except BadSignature:
            return None
        match said:
            case [str(session_id), (None | str()) as start] if (
                start is None or len(start) == START_CHARACTERS
            ):
                return Session(session_id, start)
            case _:
                return None

    def write(self, session: Session, *, is_secure: bool) -> str:
        """Return the `Set-Cookie` header of a session (RFC 6265 section 4.1).

        Args:
            is_secure: Whether the browser came by TLS, and shall send it by nothing else.
        """
        value = self._sessions.dumps([session.id, session.key_start])
        secure = "; Secure" if is_secure else ""
        return f"{_COOKIE}={value}; Path={_PATH}; HttpOnly; SameSite=Lax{secure}"

    def form_token(self, session: Session) -> str:
        """Return what the forms of a session carry: a page of others cannot know it."""
        return self._tokens.get_signature(session.id).decode()

    def is_form_token(self, session: Session, token: str) -> bool:
        """Return whether a form comes from a page of this session."""
        return self._tokens.verify_signature(session.id, token)
