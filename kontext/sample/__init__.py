"""Euler sampling and the editor."""
