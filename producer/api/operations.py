"""The operations on operations: follow and cancel them; and the audit log of what was done."""

import logging
from uuid import UUID

import flask

from producer.api.guard import JSON_TYPE
from producer.api.ids import read_id
from producer.api.parking_models import (
    AuditEntryDocument,
    AuditPage,
    OperationDocument,
    OperationPageDocument,
)
from producer.parking import ANONYMOUS, AuditEntry, Operation
from producer.store import audit, bulk_actions
from producer.store.database import Database
from shared.clock import utc_now
from shared.errors import OperationNotFound

logger = logging.getLogger(__name__)

DEFAULT_LIMIT = 100


class OperationOperations:
    """Tells how far operations are and what operators did, and ends an operation early."""

    def __init__(self, store: Database) -> None:
        self._store = store

    def list_operations(self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> flask.Response:
        """Answer with one page of operations, newest first."""
        after = UUID(cursor) if cursor else None
        found = self._store.read(bulk_actions.list_operations, limit=limit + 1, after=after)
        page = found[:limit]
        document = OperationPageDocument(
            items=[operation_document(operation) for operation in page],
            next=str(page[-1].id) if len(found) > limit else None,
        )
        return flask.Response(document.model_dump_json(), mimetype=JSON_TYPE)

    def get_operation(self, operation_id: str) -> flask.Response:
        """Answer with the operation and its progress."""
        operation = self._store.read(bulk_actions.get_operation, read_id(operation_id, OperationNotFound))
        return flask.Response(operation_document(operation).model_dump_json(), mimetype=JSON_TYPE)

    def cancel_operation(self, operation_id: str) -> flask.Response:
        """End a running operation; what it has done stays done."""
        by = flask.request.headers.get("Retriever-Actor", ANONYMOUS)
        operation = self._store.write(
            bulk_actions.cancel_operation, read_id(operation_id, OperationNotFound), by=by, now=utc_now()
        )
        logger.info(
            "operation_cancelled",
            extra={"operation_id": operation_id, "done": operation.done, "total": operation.total},
        )
        return flask.Response(operation_document(operation).model_dump_json(), mimetype=JSON_TYPE)

    def list_audit(
        self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None, target: str | None = None
    ) -> flask.Response:
        """Answer with one page of the audit log, newest first."""
        after = UUID(cursor) if cursor else None
        found = self._store.read(audit.list_audit, target=target, limit=limit + 1, after=after)
        page = found[:limit]
        document = AuditPage(
            items=[_audit_document(entry) for entry in page],
            next=str(page[-1].id) if len(found) > limit else None,
        )
        return flask.Response(document.model_dump_json(), mimetype=JSON_TYPE)


def operation_document(operation: Operation) -> OperationDocument:
    """Return the document of an operation."""
    return OperationDocument(
        id=operation.id,
        action=operation.action,
        filter=operation.filter_document,
        rate_per_second=operation.rate_per_second,
        state=operation.state,
        total=operation.total,
        done=operation.done,
        skipped=operation.skipped,
        created_at=operation.created_at,
        finished_at=operation.finished_at,
        by=operation.by,
    )


def _audit_document(entry: AuditEntry) -> AuditEntryDocument:
    return AuditEntryDocument(
        id=entry.id,
        at=entry.at,
        by=entry.by,
        action=entry.action,
        target=entry.target,
        details=entry.details,
    )
