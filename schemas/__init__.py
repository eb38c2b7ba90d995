"""What everything is: recipes, tables, manifests, views."""

CHANGES_RESULTS = False  # the values of a section are in its digest; tables and risks say otherwise
