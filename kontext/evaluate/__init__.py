"""Benches, metrics, reference editors, report."""
