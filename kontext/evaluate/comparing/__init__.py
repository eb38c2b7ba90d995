"""One page that compares evaluations: the verdict, the categories, pictures of the same items.

May import all of kontext that stages may, but no stage.
"""

CHANGES_RESULTS = False  # for users; no stage compares by it
