"""Which stores the end-to-end tests run on."""

import os

import pytest

IS_COMPOSE = "E2E_COMPOSE" in os.environ
STORES = ["compose"] if IS_COMPOSE else ["sqlite", "postgresql"]

# For what is about the broker, the workers or the passing of time and the same on every store.
on_one_store = pytest.mark.parametrize("system", STORES[-1:], indirect=True, scope="session")
