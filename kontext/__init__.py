"""kontext: an open, end-to-end reproduction of FLUX.1 Kontext."""
