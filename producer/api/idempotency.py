"""The Idempotency-Key header: one request, however often it is sent.

After the IETF draft "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key-header).
"""

from datetime import timedelta
from http import HTTPStatus

from starlette.requests import Request

from producer.api.problems import HttpProblem
from producer.records import IdempotencyKey
from shared.clock import utc_now
from shared.errors import FieldError

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"
MAX_KEY_LENGTH = 255
KEPT = timedelta(hours=24)


def read_idempotency_key(request: Request, fingerprint: bytes) -> IdempotencyKey | None:
    """Return the key of a request, or None when it has none.

    Args:
        fingerprint: SHA-256 of all that the request says.

    Raises:
        HttpProblem: the key is empty, too long, or not printable ASCII.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
        msg = f"Must be 1 to {MAX_KEY_LENGTH} printable ASCII characters"
        raise HttpProblem(
            HTTPStatus.BAD_REQUEST, f"{HEADER}: {msg}.", errors=[FieldError(f"/header/{HEADER}", msg)]
        )
    return IdempotencyKey(key, fingerprint, utc_now() + KEPT)
