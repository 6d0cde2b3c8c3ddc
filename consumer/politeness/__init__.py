"""Politeness to hosts: how many requests at once, how many a second, and when to stay away.

Deciding is in `gate` and what it is made of: pure, the clock is passed in. `gates` waits.
"""
