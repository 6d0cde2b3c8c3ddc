"""A browser in the dashboard. What drives it has an environment of its own: `Pipfile` beside this file."""
