"""The other systems, each doing the same two sorts of job; they run in an environment of their own.

Nothing here imports Retriever, and nothing of Retriever imports this: `bench/contenders.py` starts these
modules as programs. `python -m bench.peers.NAME fill 1000` enqueues jobs with the system's own client,
`python -m bench.peers.NAME work` works on them until SIGTERM.
"""
