"""`python -m flows.cli` is `kontext`."""

from flows.cli import main

main()
