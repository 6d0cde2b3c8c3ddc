"""The HTTP client of the peers that work in threads or greenlets: one pool that keeps its connections."""

import urllib3

from bench.peers.place import PREFETCH

# A pool is safe to share between threads, and costs a fraction of what a `requests` session does.
POOL = urllib3.PoolManager(maxsize=PREFETCH, retries=False)


def ask(url: str) -> None:
    """GET a URL and read the answer; with no URL do nothing.

    Raises:
        RuntimeError: the answer was not 200.
    """
    if url:
        answer = POOL.request("GET", url)
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}")
