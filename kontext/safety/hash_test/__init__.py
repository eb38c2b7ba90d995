"""`kontext safety test`: how well the hash gate knows pictures again, measured on real ones."""
