"""The client for threads, made of that for threads: `python client/make_sync.py`."""
