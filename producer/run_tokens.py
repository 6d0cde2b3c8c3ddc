"""Run tokens: what shows that a message is of a job that the ledger published, and not of a stranger. Pure.

Anybody who may publish to the broker can write a report of any job. So each run of a stored job travels with
a token that follows from a key of the store; workers pass it on, and the recorder believes a report only with
it: docs/decisions/0026-stored-jobs-travel-with-a-token.md.
"""

import hmac
from hashlib import blake2b
from uuid import UUID

from shared.settings import RunTokenPolicy

KEY_BYTES = 32
_TOKEN_BYTES = 16


class RunTokens:
    """Makes the tokens of one store, and checks those that come back."""

    def __init__(self, key: bytes, *, policy: RunTokenPolicy = RunTokenPolicy.REQUIRED) -> None:
        """Make tokens with a key that only the store has.

        Args:
            policy: Whether a report without a token proves nothing. A wrong one never proves anything.
        """
        # Each token starts from a copy of it: keying a hash anew would take more than half of the time.
        self._keyed = blake2b(key=key, digest_size=_TOKEN_BYTES)
        self._is_missing_believed = policy is RunTokenPolicy.OPTIONAL

    def of(self, job_id: UUID, run: int) -> str:
        """Return the token of a run: always the same one, in less than a microsecond."""
        token = self._keyed.copy()
        # The number of the id, because `bytes` of a UUID is computed in Python.
        token.update(job_id.int.to_bytes(16) + run.to_bytes(8))
        return token.hexdigest()

    def is_token_of(self, token: str | None, job_id: UUID, run: int) -> bool:
        """Return whether this is the token of a run, whatever the policy is."""
        return token is not None and hmac.compare_digest(
            token.encode(errors="replace"), self.of(job_id, run).encode()
        )

    def prove(self, token: str | None, job_id: UUID, run: int) -> bool:
        """Return whether a message with this token, or without one, may speak for a run that needs one."""
        return self._is_missing_believed if token is None else self.is_token_of(token, job_id, run)
