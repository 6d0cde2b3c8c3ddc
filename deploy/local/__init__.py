"""A broker, a database and the whole service on this machine, for `make run`, `make demo` and the tests."""
