"""The report and the cards: HTML, charts and words from measured numbers only.

Nothing here changes a score. A change of a template or a sentence makes no stage stale.
"""

CHANGES_RESULTS = False  # tells people what evaluate measured
