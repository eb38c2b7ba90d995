"""What everything is: recipes, tables, manifests, views."""
