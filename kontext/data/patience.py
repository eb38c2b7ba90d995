"""How long one waits before a server is asked again."""

from dataclasses import dataclass

from kontext.data.sources.stable import stable_hash


@dataclass(frozen=True)
class Patience:
    """When a request is sent again, and how long that is waited for."""

    tries: int = 6  # of one request, for reasons that may pass
    first_wait: float = 1.0  # seconds, doubled each time, less a share by hash of pair and seed
    longest_wait: float = 120.0  # seconds, also where the server asks for more
    seed: int = 0

    def wait(self, key: str, attempt: int, asked_for: float) -> float:
        """Seconds before attempt 1, 2, ... of what is asked about `key`."""
        share = stable_hash("wait", key, attempt, self.seed) / 2**64  # in [0, 1)
        backoff = self.first_wait * 2.0 ** min(attempt - 1, 32) * (1 - share / 2)
        return min(max(backoff, asked_for), self.longest_wait)
