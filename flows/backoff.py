"""How often to ask the server: soon after something happened, seldom while nothing does.

A query costs the server some 10 ms of a core that the training beside it would use.
"""


def next_pause(pause: float, changed: bool, first: float, last: float = 4.0) -> float:
    """Seconds until the next question: `first` after a change, then growing up to `last`.

    Args:
        pause: the one before this, at the beginning `first`.
    """
    return first if changed else min(last, 1.3 * pause)
