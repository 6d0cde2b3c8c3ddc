"""`PageStore`: what the rest of the program asks of paged fetches. Each method is one transaction."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.page_measure import PagesRecord, measure
from producer.paging import page_of, pages_batch_id
from producer.records import JobRecord
from producer.store import paging, queries
from producer.store.engine import Transaction
from shared.errors import BatchNotFound, JobNotPaged


class PageStore:
    """Reads paged fetches; they are written with the reports of their pages."""

    def __init__(self, *, reading: Transaction) -> None:
        self._reading = reading

    def get(self, root_id: UUID) -> PagesRecord:
        """Return a paged fetch, measured: reads a row for each page, and none of their results.

        Raises:
            JobNotFound: no job has this id.
            JobNotPaged: the job has no `pages`, or is itself one of the pages of another.
        """
        with self._reading() as connection:
            root = _root(connection, root_id)
            try:
                batch = queries.get_batch(connection, pages_batch_id(root_id))
            except BatchNotFound:
                batch = None
            return PagesRecord(root, batch, measure(paging.read_pages(connection, root_id)))

    def check(self, root_id: UUID) -> None:
        """Do nothing if a job is the first of a paged fetch.

        Raises:
            JobNotFound: no job has this id.
            JobNotPaged: the job has no `pages`, or is itself one of the pages of another.
        """
        with self._reading() as connection:
            _root(connection, root_id)

    def next_items(self, root_id: UUID, *, after: int) -> tuple[int, Sequence[Any], bytes | None] | None:
        """Return number, items and digests of keys of the first page there is behind `after`, or None."""
        with self._reading() as connection:
            return paging.next_page_items(connection, root_id, after=after)


def _root(connection: sa.Connection, root_id: UUID) -> JobRecord:
    root = queries.get_job(connection, root_id)
    page = page_of(root)
    if page is None:
        raise JobNotPaged("The job fetches no pages.")
    if page.index:
        raise JobNotPaged(f"It is page {page.index} of job {page.root_id}.")
    return root
