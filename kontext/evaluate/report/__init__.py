"""The static HTML report."""

CHANGES_RESULTS = False  # tells people what evaluate measured
