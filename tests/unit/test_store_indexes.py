"""What the indexes of jobs must leave out."""

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from producer.store.schema import jobs

POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]
INDEXES = {str(index.name): index for index in jobs.indexes}


@pytest.mark.parametrize("name", sorted(INDEXES))
def test_no_index_holds_the_time_of_a_relays_lease(name: str) -> None:
    # With one, partial or not, PostgreSQL cannot lease a job by a HOT update: every index of it is written.
    written = str(sa.schema.CreateIndex(INDEXES[name]).compile(dialect=POSTGRESQL))

    assert "claimed_until" not in written
