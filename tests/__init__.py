"""A package with a file of its own: some that are installed bring a top-level `tests` too."""
