"""The client for coroutines, of which that for threads is made: `python client/make_sync.py`."""
