"""Retriever beside another link checker, on the same links."""
