"""What the compose stack runs beside Retriever itself: it makes passwords and the roles of the database."""
