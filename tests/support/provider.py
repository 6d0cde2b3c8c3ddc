"""An OpenID provider on loopback: its metadata, its keys, and tokens that it signs."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

AUDIENCE = "retriever"
SigningKey = RSAKey | ECKey | OKPKey


def rsa_key(key_id: str) -> RSAKey:
    """Return a new key of a provider."""
    return RSAKey.generate_key(2048, {"kid": key_id, "use": "sig"})


@dataclass(slots=True)
class Provider:
    """What a provider says, and how often it was asked for its keys; it hangs while `answers` is not set."""

    issuer: str
    keys: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    asked: int = 0
    answers: threading.Event = field(default_factory=threading.Event)

    def publish(self, *keys: SigningKey | OctKey) -> None:
        """Have these keys, and no others."""
        self.keys = [key.as_dict(private=isinstance(key, OctKey)) for key in keys]

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Return good claims, but for those that are changed; None leaves one out."""
        now = int(time.time())
        good = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "ann",
            "iat": now,
            "exp": now + 600,
            "scope": "jobs:read jobs:write openid",
        }
        return {name: value for name, value in (good | changed).items() if value is not None}

    def token(
        self, key: SigningKey | OctKey, *, header: Mapping[str, Any] | None = None, **changed: Any
    ) -> str:
        """Return a token that a key has signed."""
        fields = {"alg": "RS256", "kid": key.kid, "typ": "at+jwt"} | dict(header or {})
        sent = {name: value for name, value in fields.items() if value is not None}
        algorithms = [str(sent["alg"])]
        return jwt.encode(sent, self.claims(**changed), key, algorithms=algorithms)


@contextmanager
def running_provider() -> Iterator[Provider]:
    """Serve a provider until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            documents = {
                "/.well-known/openid-configuration": {
                    "issuer": provider.issuer,
                    "jwks_uri": f"{provider.issuer}/keys",
                },
                "/keys": {"keys": provider.keys},
            }
            provider.asked += self.path == "/keys"
            provider.answers.wait()
            body = json.dumps(documents.get(self.path, {})).encode()
            # Who asked may have gone away.
            with suppress(ConnectionError):
                self.send_response(provider.status if self.path in documents else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = Provider(f"http://127.0.0.1:{server.server_port}")
    provider.answers.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield provider
    finally:
        provider.answers.set()
        server.shutdown()
        thread.join()
        server.server_close()
