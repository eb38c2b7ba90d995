"""From image sources to training batches."""
