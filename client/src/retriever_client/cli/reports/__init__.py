"""Reports of one run, each in a format of its own and all of the same links.

A writer reads the links one after the other and keeps none: reports of any number need the same memory.
"""
