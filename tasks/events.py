"""Events that automations listen to: an artifact was made, a dataset grew, a canary failed.

The open source server has no asset pages, so asset events serve as triggers only; lineage is in
the manifests.
"""

from typing import Any

from prefect.events import emit_event

ASSET_MADE = "prefect.asset.materialization.succeeded"
DATASET_COMMITTED = "kontext.dataset.committed"
REFRESH_FINISHED = "kontext.refresh.finished"
CANARY_FAILED = "kontext.canary.failed"


def asset_made(stage: str, digest: str, recipe: str) -> None:
    """A stage made a new artifact. Its asset is `kontext://<stage>`."""
    labels = {"kontext.engine.stage": stage, "kontext.digest": digest, "kontext.recipe": recipe}
    _emit(ASSET_MADE, f"kontext://{stage}", labels)


def dataset_committed(dataset: str, version: int, train: bool, options: dict[str, Any]) -> None:
    """A refresh committed a dataset version. `options` are a pipeline run's that trains on it."""
    labels = {"kontext.dataset": dataset, "kontext.train": "yes" if train else "no"}
    payload = {"version": version, "options": options}
    _emit(DATASET_COMMITTED, f"kontext://dataset/{dataset}", labels, payload)


def refresh_finished(dataset: str) -> None:
    """A refresh ended well, with news or without."""
    _emit(REFRESH_FINISHED, f"kontext://refresh/{dataset}", {"kontext.dataset": dataset})


def canary_failed(what: str, why: str) -> None:
    """A safety canary got through, or a published model got worse."""
    _emit(CANARY_FAILED, f"kontext://canary/{what}", {"kontext.canary": what}, {"why": why})


def _emit(
    event: str, resource: str, labels: dict[str, str], payload: dict[str, Any] | None = None
) -> None:
    about = {"prefect.resource.id": resource, "prefect.resource.name": resource, **labels}
    emit_event(event=event, resource=about, payload=payload or {})
