"""The kinds of jobs: their arguments, results, retry defaults and limits; never the work itself."""
