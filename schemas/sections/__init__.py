"""Recipe sections, one class each: what a stage may be told. They import nothing but each other.

A new field needs a default, a title and, where it has one, a unit in the title. Settings of an
image source live beside the source, see `schemas.sections.sources`.
"""

CHANGES_RESULTS = False  # a section's values are part of every digest, titles are for people
