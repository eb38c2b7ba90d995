"""The only package that knows of devices and ranks."""
