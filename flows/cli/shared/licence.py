"""What a user should know of a source's licence."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kontext.data.sources.found import Findings

_UNKNOWN = "LicenseRef-unknown"


def licence_unknown(found: "Findings") -> str:
    """How to name the licence of pictures for which nothing says it; "" where there are none."""
    count = found.licences.get(_UNKNOWN, 0)
    if not count:
        return ""
    source = {"kind": found.source.kind, "path": found.source.path, "license_spdx": "MIT"}
    return (
        f"nothing says the licence of {count:,} of {sum(found.licences.values()):,} pictures; it "
        f"is {_UNKNOWN} unless you name it: --set 'ingest.sources=[{json.dumps(source)}]'"
    )
