"""The strictest licence of a pair, by what an SPDX id says of itself."""

import itertools

import pytest

from kontext.data.licenses import strictest_license

# strictest first; of each rank some, among them ids that nobody listed
RANKS = (
    ("LicenseRef-unknown", "LicenseRef-aaa", "LicenseRef-zzz", "Proprietary", ""),
    ("CC-BY-NC-ND-4.0",),
    ("CC-BY-NC-SA-4.0",),
    ("CC-BY-NC-4.0", "CC-BY-NC-2.0"),
    ("CC-BY-ND-4.0",),
    ("GPL-2.0-only", "GPL-3.0-or-later", "AGPL-3.0-only", "LGPL-2.1-only"),
    ("CC-BY-SA-4.0", "CC-BY-SA-3.0"),
    ("CC-BY-4.0", "OFL-1.1"),
    ("MIT", "Apache-2.0", "BSD-3-Clause"),
    ("CC0-1.0", "Unlicense", "0BSD", "MIT-0"),
)


@pytest.mark.parametrize(("high", "low"), itertools.combinations(range(len(RANKS)), 2))
def test_of_two_ranks_the_stricter_wins_whatever_the_names_are(high: int, low: int) -> None:
    for strict, free in itertools.product(RANKS[high], RANKS[low]):
        assert strictest_license(strict, free) == strictest_license(free, strict) == strict
