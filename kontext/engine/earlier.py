"""Which finished artifacts of a stage may be asked for what they hold of an item.

Only those of the same code and packages: then what a stage makes of an item, from the same bytes
and settings, is the same again. That an artifact's recipe named other plug-ins does not matter: a
module's text decides what it imports, so where the stage's own module is the same, all that it
works with is.
"""

from collections.abc import Mapping

from kontext.engine.stage import Stage
from kontext.engine.versions import package_versions
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore

CHANGES_RESULTS = False  # what is taken from them is what would be made

_MOST = 3  # artifacts that are asked; the newest nearly always has all


def made_by_same_code(
    store: ArtifactStore, stage: Stage, code: Mapping[str, str]
) -> list[Artifact]:
    """A stage's newest artifacts that today's code and packages would make again, newest first.

    `code` is what decides the stage's result today, by module.
    """
    packages = package_versions()
    found = [
        manifest
        for manifest in store.list(stage.name)
        if stage.module in manifest.code
        and manifest.packages == packages
        and all(code[name] == text for name, text in manifest.code.items() if name in code)
    ]
    return [Artifact(store, manifest) for manifest in found[: -_MOST - 1 : -1]]
