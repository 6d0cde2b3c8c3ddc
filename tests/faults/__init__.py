"""The promise put to the test: real processes, real faults, and counters at the end."""
