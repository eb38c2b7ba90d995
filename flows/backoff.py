"""How often to ask the server: soon after something happened, seldom while nothing does.

A query costs the server some 10 ms of a core that the training beside it would use.
"""


class Backoff:
    """Seconds to wait before the next question: `first` after a change, then growing to `last`."""

    def __init__(self, first: float = 0.5, last: float = 4.0, growth: float = 1.3) -> None:
        assert 0 < first <= last and growth > 1
        self._first, self._last, self._growth = first, last, growth
        self._next = first

    def pause(self, changed: bool) -> float:
        """The next pause in seconds; `changed` says whether the last answer was news."""
        if changed:
            self._next = self._first
        pause = self._next
        self._next = min(self._last, self._next * self._growth)
        return pause
