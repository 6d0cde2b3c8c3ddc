"""What strangers have us compute: pure functions of plain values, and the processes that they run in.

Regular expressions, JMESPath, JSON and HTML of others, and what is done with their large bodies. `pool` is
the worker's side. What nearly all calls need imports no models and no HTTP client, so processes are small.
"""
