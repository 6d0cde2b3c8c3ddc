"""Politeness to hosts in one worker, the second line: requests at once, a rate, and when to stay away.

`host_limiter` decides and is pure: the clock is passed in. `host_limiters` waits.
"""
