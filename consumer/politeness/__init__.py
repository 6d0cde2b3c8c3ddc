"""Politeness to hosts: how many requests at once, how many a second, and when to stay away.

`host_limiter` decides and is pure: the clock is passed in. `host_limiters` waits.
"""
