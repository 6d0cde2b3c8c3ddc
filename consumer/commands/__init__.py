"""Running strangers' programs: what the operator allows, the sandbox, and how a run ends."""
