"""Recipe sections, one class each: the settings of a stage. They import nothing but each other.

A new field needs a default, a title and, where it has one, a unit in the title. Settings of an
image source are in the source's file, see `schemas.sections.sources`.
"""

CHANGES_RESULTS = False  # a section's values are part of every digest, titles are for people
