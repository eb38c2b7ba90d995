"""Shares with their exact intervals."""

from dataclasses import dataclass

CHANGES_RESULTS = False  # measures; a stage never asks it


@dataclass(frozen=True)
class Rate:
    """K of n, with the exact 95 % interval of Clopper and Pearson."""

    hits: int
    of: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """hits / of; 0 of none."""
        return self.hits / self.of if self.of else 0.0

    @property
    def interval(self) -> str:
        """For people: "90.4% to 95.9%"."""
        return f"{self.low:.1%} to {self.high:.1%}"


def exact(hits: int, of: int) -> Rate:
    """Clopper and Pearson's interval, 95 %."""
    from scipy.stats import beta

    low = float(beta.ppf(0.025, hits, of - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, of - hits)) if hits < of else 1.0
    return Rate(hits, of, low, high)
