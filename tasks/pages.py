"""Pages (markdown artifacts) of runs: one per key and run, so that a retried run has no second."""

from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.sorting import ArtifactSort


def page_of(client: SyncPrefectClient, run: str, key: str) -> str:
    """Id of the page that a run has under a key; empty where it has none."""
    try:
        owner = UUID(run)
    except ValueError:  # a stage that was made without the orchestrator
        return ""
    wanted = ArtifactFilter(flow_run_id={"any_": [owner]}, key={"any_": [key]})
    found = client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.CREATED_DESC, limit=1)
    return str(found[0].id) if found else ""


def put_page(client: SyncPrefectClient, run: str, key: str, text: str, description: str) -> str:
    """Write a page of this run, over one that it has already; returns its id."""
    if page := page_of(client, run, key):
        client.update_artifact(UUID(page), ArtifactUpdate(data=text, description=description))
        return page
    return str(create_markdown_artifact(text, key=key, description=description))
