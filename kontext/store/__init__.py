"""Objects, artifacts and the catalog."""
