"""Links in documents: where each is written, what it leads to, and which are asked of the service.

The way of a document: `inputs` reads it, `extraction` finds its links by its format, `targets` says what each
leads to. Nothing here asks a server but `inputs.fetch_page`, for documents that are named by their URL.
"""
