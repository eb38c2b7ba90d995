"""Names of deployments: each has its flow's name, since the UI's list shows that first."""

from __future__ import annotations


def deployment_name(flow: str) -> str:
    """`flow/deployment`, as Prefect's API wants it."""
    return f"{flow}/{flow}"


def artifact_tag(stage: str, digest: str) -> str:
    """Tag that finds the runs of one artifact."""
    return f"{stage}/{digest}"
