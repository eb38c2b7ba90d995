"""Prefect tasks: retries, logs and artifacts around library functions."""
