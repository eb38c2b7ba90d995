"""What everything is, as types: recipes and their sections, tables, manifests, SQL views.

Imports nothing of kontext. Where plug-ins belong to a type (image sources, risks), their package is
looked into by its name (`schemas.discovery`). To add a recipe, write one file in `recipes`; a new
setting is a field in `sections`, or in the class `Settings` of a stage's own file.
"""

CHANGES_RESULTS = False  # the values of a section are in its digest; tables and risks say otherwise
