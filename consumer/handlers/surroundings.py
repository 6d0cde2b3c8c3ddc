"""What a handler is given beside its arguments."""

from dataclasses import dataclass
from uuid import UUID

from consumer.handlers.client import Client
from consumer.handlers.signing import Signer


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The job's id, and what all handlers of a worker share."""

    job_id: UUID
    client: Client
    signer: Signer
