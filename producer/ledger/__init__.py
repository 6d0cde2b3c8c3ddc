"""The background side of the store: what moves jobs to the broker and results back."""
