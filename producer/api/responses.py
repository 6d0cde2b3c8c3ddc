"""How a document is answered by an operation that runs natively on the event loop."""

from http import HTTPStatus

from pydantic import BaseModel
from starlette.responses import Response

from producer.api.guard import JSON_TYPE


def json_response(
    document: BaseModel, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    """Return an answer with the document as its JSON body."""
    return Response(document.model_dump_json(), status, headers, JSON_TYPE)
