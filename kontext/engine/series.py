"""Which earlier artifacts a stage with `continues` goes on from.

The stage's section has a field that names a series, for example a dataset. An artifact goes on from
the series' newest ones: those that no other has gone on from. That is one, or several where runs
were made at the same time. Their digests are part of the artifact's own, and stand in its manifest.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.manifest import Manifest

CHANGES_RESULTS = False  # what it finds is part of the digest


def goes_on_from(
    manifests: Sequence[Manifest],
    field: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    code_digest: str,
) -> list[str]:
    """Digests of the artifacts that the one of this section, inputs and code goes on from.

    One that has been made already keeps what its manifest says, so it stays the same artifact
    when others follow. `manifests` are the stage's, oldest first.
    """
    series = [m for m in manifests if m.config.get(field) == config[field]]
    for made in reversed(series):
        plain = {k: v for k, v in made.config.items() if k != "before"}
        if (plain, made.inputs, made.code_digest) == (config, inputs, code_digest):
            return list(made.config.get("before", ()))
    gone_on = {digest for made in series for digest in made.config.get("before", ())}
    return sorted({made.digest for made in series} - gone_on)
