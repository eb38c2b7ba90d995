"""How much a licence asks for: a pair takes the strictest of its images' licences.

An SPDX id is ranked by what it says of itself, so one that nobody listed has its place too.
"""

import re
from functools import cache

# Strictest first. What fits none has terms that we do not know, and is stricter than all.
_TIERS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"CC-BY-NC-ND-",
        r"CC-BY-NC-SA-",
        r"CC-BY-NC-\d",
        r"CC-BY-ND-",
        r"A?GPL-|LGPL-|GFDL-|MPL-|EUPL-|CDDL-|EPL-|OSL-|CECILL-|ODbL-",
        r"CC-BY-SA-",
        r"CC-BY-\d|ODC-By-|OFL-",
        r"MIT|BSD-|ISC$|Apache-|Zlib$|BSL-|Artistic-|PSF-|Unicode-|HPND|X11|NCSA",
        r"CC0-|CC-PDDC|CC-PDM-|PDDL-|0BSD|MIT-0|Unlicense$|WTFPL",
    )
)


def strictest_license(*licenses: str) -> str:
    """The most restrictive of some SPDX ids; of equally strict ones the first by name.

    >>> strictest_license("MIT", "CC-BY-NC-4.0", "GPL-3.0-only")
    'CC-BY-NC-4.0'
    >>> strictest_license("CC0-1.0", "LicenseRef-somebodys")
    'LicenseRef-somebodys'
    """
    return min(licenses, key=lambda spdx: (_strictness(spdx), spdx))


@cache  # pairs are millions, licences few
def _strictness(spdx: str) -> int:
    """The last tier that fits, because the freest names are the longest; -1 for unknown terms."""
    return max((n for n, tier in enumerate(_TIERS) if tier.match(spdx)), default=-1)
