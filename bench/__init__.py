"""Measurements of the whole service on one machine, with real processes, broker and store."""
