"""The side that does the work: workers, handlers and settlement. Never sees the store."""
