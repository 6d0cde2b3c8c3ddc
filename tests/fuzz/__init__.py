"""Generated messages and requests, seeded and bounded: `make fuzz` sends twenty thousand of each."""
