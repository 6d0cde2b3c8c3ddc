"""Serves the API until it is told to stop."""

import uvicorn

from producer.api.app import build_app
from producer.store.database import Database
from shared.settings import Settings

# Requests that run when the server is told to stop may take this long; then their connections are closed.
GRACE_SECONDS = 10


def serve(settings: Settings) -> None:
    """Serve the API on its host and port until SIGTERM or SIGINT. Blocks; closes the store at the end."""
    store = Database.open(settings.database_url)
    try:
        uvicorn.run(
            build_app(store, settings),
            host=settings.api_host,
            port=settings.api_port,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    finally:
        store.close()
