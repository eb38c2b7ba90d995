"""What everything is, as types: recipes and their sections, tables, manifests, SQL views.

Imports nothing of kontext. Where plug-ins belong to a type (image sources, risks), their package is
looked into by its name (`schemas.discovery`). A new recipe is a file in `recipes`, a new setting a
field in `sections`.
"""

CHANGES_RESULTS = False  # the values of a section are in its digest; tables and risks say otherwise
