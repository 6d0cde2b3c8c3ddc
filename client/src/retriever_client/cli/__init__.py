"""The command line `retriever`, for people and for build servers; needs the extra `cli`."""
