"""The weights that a recipe's `init` names: files, artifacts, adapters, and their digests."""
