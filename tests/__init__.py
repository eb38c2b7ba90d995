"""The tests. A package, so that one named `tests` that a dependency installs does not hide it."""
