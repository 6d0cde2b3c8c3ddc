"""The side that accepts jobs and keeps their records: the API, the ledger and the store."""
