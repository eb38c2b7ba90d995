"""A store for a machine without network: what a recipe's data stages made, and models' files.

    <store>/runs, blobs, tags, ledger   artifacts, as in any store (`store.artifacts.transfer`)
    <store>/export.json                 the recipe's name, and which artifacts to take as they are
    <store>/models/…                    weights that no recipe names (`models.files.packaged`)

The stages that follow run there as they do anywhere. What they made comes back by
`kontext artifacts import`, and the next `kontext run` enters it into the catalog.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel

from kontext.engine.remake import import_artifacts
from kontext.engine.run import Engine
from kontext.engine.stage import Stage, section_in
from kontext.errors import ArtifactError, ObjectNotFound, RecipeError
from kontext.models.files.packaged import model_files
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.artifacts.transfer import Transfer
from kontext.store.given import VARIABLE
from schemas.recipe import Recipe

CHANGES_RESULTS = False  # copies what is there

RECORD, MODELS = "export.json", "models"


class ExportRecord(BaseModel):
    """What a store was exported for."""

    recipe: str
    artifacts: dict[str, str]  # stage -> digest


def export_store(
    engine: Engine,
    target: ArtifactStore,
    until: str,
    files_of: Collection[str] = (),
    models: bool = True,
) -> Transfer:
    """Copy a recipe's artifacts up to and with stage `until`, and the models that stages load.

    Args:
        files_of: stages whose files are copied, of the others only manifests; empty means all. A
            stage that needs a file that was left out says so when it comes to it.
        models: copy the models' files too.

    Raises:
        ArtifactError: an artifact is not there yet, or its bytes are damaged.
        WeightsError: a model's package is not installed here.
    """
    states = {status.stage: status for status in engine.status()}
    if states[until].state != "done":
        raise ArtifactError(
            f"stage '{until}' is {states[until].state} ({states[until].why}): first "
            f"kontext run --recipe {engine.recipe.name} --until {until}"
        )
    done = import_artifacts(
        engine.artifacts, target, f"{until}/{states[until].digest}", files_of or None
    )
    if models:
        for name, path in model_files().items():
            target.objects.put_file(f"{MODELS}/{name}", path)
    record = ExportRecord(recipe=engine.recipe.name, artifacts=dict(done.artifacts))
    target.objects.put(RECORD, record.model_dump_json(indent=1).encode())
    return done


def exported_artifacts(
    store: ArtifactStore, recipe: Recipe, stages: Mapping[str, Stage]
) -> dict[str, str]:
    """Stage -> digest of what a store was exported with; empty for a store that was not exported.

    Raises:
        RecipeError: these artifacts were made with other settings than the recipe has.
    """
    try:
        record = ExportRecord.model_validate_json(store.objects.get(RECORD))
    except ObjectNotFound:
        return {}
    for stage, digest in record.artifacts.items():
        made = store.open(stage, digest).manifest.config
        section = section_in(recipe, stages[stage]).model_dump(mode="json")
        other = [key for key, value in section.items() if made.get(key, value) != value]
        if other:
            raise RecipeError(
                f"this store was exported for recipe {record.recipe}, whose {stage} has other "
                f"settings ({', '.join(other)}): run it with the --recipe and --set of the export"
            )
    return record.artifacts


def use_models(store_url: str) -> None:
    """Have stages of this process, and of those it starts, load models from an exported folder.

    `KONTEXT_MODELS`, where it is set already, stays.
    """
    folder = Path(urlsplit(store_url).path, MODELS)
    if store_url.startswith("file://") and folder.is_dir():
        os.environ.setdefault(VARIABLE, str(folder))
