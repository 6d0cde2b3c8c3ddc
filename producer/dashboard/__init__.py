"""The dashboard: pages on what is going on and what to do about it, in the process of the API."""
