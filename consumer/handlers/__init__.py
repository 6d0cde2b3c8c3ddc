"""The work of each kind: arguments in, an outcome out. What the world does is a value, never an error."""
