"""The agent: takes tasks over HTTP, does them and reports. It knows nothing of the broker."""
