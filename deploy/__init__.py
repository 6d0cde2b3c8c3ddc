"""What it takes to run Retriever: on this machine (`deploy.local`) and in containers (`deploy/compose`)."""
