"""The HTTP API: it validates, stores and answers; it never waits for RabbitMQ and does no job's work."""
