"""Which finished artifacts of a stage may be asked for what they hold of an item.

Only those that this home has made, of what it has made, whatever others say of theirs, and of the
same code and packages: then what a stage makes of an item, from the same bytes and settings, is the
same. That an artifact's recipe named other plug-ins does not matter: no import leads to one. All
else that modules of both lead to must be the same, and in both: a package's `__init__` may have
been empty, and a module may have said that it changes no results.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from kontext.engine.fingerprint import changes_results, modules_of, source_path
from kontext.engine.stage import Stage
from kontext.engine.versions import package_versions
from kontext.errors import GateError
from kontext.safety.ledger import Ledger
from kontext.safety.ledger_check import DECIDING
from kontext.safety.own_work import is_own
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
from schemas.manifest import Manifest

CHANGES_RESULTS = False  # what is taken from them is what would be made

_MOST = 3  # artifacts that are asked; the newest nearly always has all


def made_by_same_code(
    store: ArtifactStore, home: Path, stage: Stage, code: Mapping[str, str]
) -> list[Artifact]:
    """A home's newest artifacts that today's code and packages would make again, newest first.

    `code` is what decides the stage's result today, by module.
    """
    packages = package_versions()
    found = [
        manifest
        for manifest in store.list(stage.name)
        if stage.module in manifest.code
        and manifest.packages == packages
        and _same(manifest.code, code)
    ]
    own = (manifest for manifest in reversed(found) if is_own(store.objects, home, manifest))
    return [Artifact(store, manifest) for manifest in islice(own, _MOST)]


def made_of_own(
    store: ArtifactStore, home: Path, stages: Mapping[str, Stage], inputs: Mapping[str, str]
) -> bool:
    """Whether a home has made all inputs (stage -> digest) of a stage, but for models.

    What others made may call any picture by the id of one that has passed: nothing that was found
    before holds of it, nor later of that one what is found of it.
    """
    return all(
        stages[name].model or is_own(store.objects, home, store.open(name, digest).manifest)
        for name, digest in inputs.items()
    )


def elsewhere(store: ArtifactStore, home: Path, name: str, digest: str) -> str:
    """What is said of an artifact that is there where this home has not made it; or nothing."""
    own = is_own(store.objects, home, store.open(name, digest).manifest)
    return "" if own else ", not signed with this home's key"


def require_let_in(ledger: Ledger, manifest: Manifest) -> None:
    """See that an artifact which is reused was let in by gates of this home.

    Of what holds pictures and decisions (`DECIDING`): this home has made it, or its ledger has what
    was decided, as it has of what was imported.

    Raises:
        GateError: neither; somebody has put it into the store.
        LedgerError: the ledger was changed.
    """
    name = f"{manifest.stage}/{manifest.digest}"
    if manifest.stage not in DECIDING or is_own(ledger.objects, ledger.home, manifest):
        return
    if all(segment.artifact != name for segment in ledger.segments()):
        raise GateError(
            f"{name} is in the store, but this home has neither made nor imported it, so its "
            "pictures have met no gate: remove it, and `kontext artifacts import` it if you have it"
        )


def _same(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether the modules that both name are the same, with all that they lead to."""
    both = sorted(name for name in now if name in before and source_path(name) is not None)
    if any(before.get(name) != text for name, text in modules_of(*both).items()):
        return False
    return all(
        now[name] == text if name in now else _of_a_plugin(name, both)
        for name, text in before.items()
    )


def _of_a_plugin(gone: str, both: Sequence[str]) -> bool:
    """Whether a name of before that is not there now is, or was, only a plug-in's."""
    module, _, data = gone.partition(":")
    if data and module in both:
        return False
    return changes_results(module) and not any(name.startswith(f"{module}.") for name in both)
