"""Limits of projects for tests, set in the store as an operator does, but without the wait for others."""

from producer.quotas import LimitName, Usage
from producer.store import quotas
from producer.store.database import Database
from shared.clock import utc_now


def limit(store: Database, project: str, **limits: int) -> None:
    """Set all limits of a project, by name; this process goes by them at once."""
    named = {LimitName(name): value for name, value in limits.items()}
    store.write(quotas.set_limits, project, named, by="a test", now=utc_now())
    store.known_limits.forget()


def usage_of(store: Database, project: str) -> Usage:
    """Return what a limited project has, as it is counted; it is what its rows say."""
    counted = store.read(quotas.read_usage, [project])[project]
    rows = store.read(quotas.count_jobs, project)
    assert (counted.jobs, counted.tasks) == (rows.jobs, rows.tasks)
    return counted
