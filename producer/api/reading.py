"""From the bytes of a JSON body to a validated document; every malformed body is an error that says where."""

from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from producer.submission import field_errors
from shared.errors import FieldError, JobInvalid

Document = TypeVar("Document", bound=BaseModel)

# From this size on a body is read off the event loop: 64 KiB of JSON cost about half a millisecond.
LARGE_BODY_BYTES = 65_536


def read_document(model: type[Document], body: bytes) -> Document:
    """Return the document of a body, read strictly: the text "5" is no number.

    Raises:
        JobInvalid: it is not JSON (RFC 8259) or breaks the model; every field is named.
    """
    try:
        # pydantic's own parser lets NaN and Infinity pass, which no JSON column takes.
        orjson.loads(body)
        return model.model_validate_json(body, strict=True)
    except orjson.JSONDecodeError as error:
        raise JobInvalid([FieldError("", f"The body is not JSON: {error}")]) from None
    except ValidationError as error:
        raise JobInvalid(field_errors(error)) from None
