"""What a run may spend on a model, kept exactly while many requests are under way."""

from threading import Condition


class Budget:
    """Tokens and requests that may be spent; 0 sets no limit.

    A request is sent only where what it can cost at most still fits; when its true cost is known,
    the rest is given back. So the limits hold with any number of requests under way, as long as no
    request costs more than was said.
    """

    def __init__(self, tokens: int = 0, requests: int = 0) -> None:
        self._limit = (tokens, requests)
        self._spent = [0, 0]
        self._held = [0, 0]  # of requests under way
        self._changed = Condition()

    def count(self, tokens: int, requests: int) -> None:
        """Count what was spent before."""
        with self._changed:
            self._add(self._spent, tokens, requests)

    def take(self, tokens: int) -> bool:
        """Hold one request of at most `tokens`; False where it does not fit.

        Waits where it may fit once requests under way have cost less than they could.
        """
        with self._changed:
            while not self._fits(tokens):
                if not self._held[1]:
                    return False
                self._changed.wait()
            self._add(self._held, tokens, 1)
            return True

    def settle(self, held: int, tokens: int, requests: int = 1) -> None:
        """Replace a hold by what was spent: 0 requests where none reached the server."""
        with self._changed:
            self._add(self._held, -held, -1)
            self._add(self._spent, tokens, requests)
            self._changed.notify_all()

    def _fits(self, tokens: int) -> bool:
        wanted = (tokens, 1)
        amounts = zip(self._limit, self._spent, self._held, wanted, strict=True)
        return all(
            not limit or spent + held + more <= limit for limit, spent, held, more in amounts
        )

    @staticmethod
    def _add(to: list[int], tokens: int, requests: int) -> None:
        to[0] += tokens
        to[1] += requests
