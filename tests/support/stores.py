"""Which stores the end-to-end tests run on."""

import os

import pytest

STORES = ["compose"] if "E2E_COMPOSE" in os.environ else ["sqlite", "postgresql"]

# For what is about the broker, the workers or the passing of time and the same on every store.
on_one_store = pytest.mark.parametrize("system", STORES[-1:], indirect=True, scope="session")
