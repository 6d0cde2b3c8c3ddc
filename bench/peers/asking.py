"""The HTTP client of the asyncio peers: one aiohttp session that keeps its connections."""

import aiohttp

from bench.peers.place import PREFETCH


class Asking:
    """A session that is opened when the loop runs; as many requests at once as there are jobs in hand."""

    def __init__(self) -> None:
        """Make one that is not open yet."""
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Open it; needs a running loop."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=PREFETCH))

    async def close(self) -> None:
        """Close it and its connections; not open: does nothing."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, url: str) -> None:
        """GET a URL and read the answer; with no URL do nothing.

        Raises:
            RuntimeError: it is not open.
            aiohttp.ClientError: there was no good answer.
        """
        if not url:
            return
        if self._session is None:
            raise RuntimeError("the session is not open")
        async with self._session.get(url, raise_for_status=True) as answer:
            await answer.read()
