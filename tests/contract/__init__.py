"""The HTTP API held to its contract by generated requests."""
