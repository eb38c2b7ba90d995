"""Names of deployments and runs; deployments have their flow's, the UI's list shows that first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kontext.errors import ArtifactError

if TYPE_CHECKING:
    from kontext.engine.run import Engine


def deployment_name(flow: str) -> str:
    """`flow/deployment`, as Prefect's API wants it."""
    return f"{flow}/{flow}"


def artifact_tag(stage: str, digest: str) -> str:
    """Tag that finds the runs of one artifact."""
    return f"{stage}/{digest}"


def dataset_tag(engine: Engine) -> str:
    """Tag that finds the runs on one dataset: its name and the digest of its index."""
    return f"{engine.recipe.shard.dataset}@{engine.digests().get('index', '')[:8]}"


def dataset_label(engine: Engine) -> str:
    """The dataset version a run works on: `demo@v3`, or its tag as long as it is not committed."""
    try:
        version = engine.artifact("index").json("index.json")["version"]
    except ArtifactError:
        return dataset_tag(engine)
    return f"{engine.recipe.shard.dataset}@v{version}"


def run_name(recipe: str, what: str, dataset: str, digest: str, forced: bool = False) -> str:
    """Name of a run. A forced run gets a digest of its own when it starts."""
    return f"{recipe} · {what} · {dataset} · {'again' if forced else digest[:8]}"
