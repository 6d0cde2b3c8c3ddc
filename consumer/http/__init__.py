"""The HTTP client of a worker: every request guarded at the socket, polite, recorded and timed."""
