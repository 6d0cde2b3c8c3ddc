"""Arguments of parked jobs: masked for whoever looks into the queue, and all of them sealed beside. Pure."""

import base64
import json
from typing import Final

from shared import exact_json
from shared.encryption import EncryptionKeys
from shared.errors import SecretUnreadable
from shared.messages import DEFAULT_PROJECT, JobMessage
from shared.redaction import redact_args
from shared.sealed import Binding

# With them once more in base64 a copy stays far below what is read.
_MOST_VEILED_BYTES: Final = 1_572_864


def veiled(job: JobMessage, keys: EncryptionKeys) -> JobMessage:
    """Return a job as it waits for a person: what is secret of its arguments is not to be seen.

    One of a third party stays as it came, for its arguments may be in no store; so does one with nothing to
    hide, or without a key to hide it with.
    """
    if not keys or job.token is None or (shown := dict(redact_args(job.args))) == job.args:
        return job
    text = json.dumps(job.args)
    if len(text) > _MOST_VEILED_BYTES:
        return job
    box = base64.b64encode(keys.seal(text, _binding(job))).decode()
    return job.model_copy(update={"args": shown, "sealed_args": box})


def unveiled(job: JobMessage, keys: EncryptionKeys) -> JobMessage:
    """Return a job with all of its arguments.

    Raises:
        SecretUnreadable: they do not open.
    """
    if job.sealed_args is None:
        return job
    try:
        box = base64.b64decode(job.sealed_args, validate=True)
        args = json.loads(keys.open(box, _binding(job)), parse_int=exact_json.read_whole)
    except ValueError:
        raise SecretUnreadable("it is not what was sealed") from None
    return job.model_copy(update={"args": args, "sealed_args": None})


def _binding(job: JobMessage) -> Binding:
    return Binding(job.project or DEFAULT_PROJECT, str(job.id), "arguments", (str(job.run),))
