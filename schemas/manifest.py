"""The manifest: what an artifact is, where its bytes are, and everything needed to make it again.

An artifact is `stage/digest`. The digest covers the stage's code digest, its resolved recipe
section and the digests of its inputs, so it is known before the stage runs. The manifest is
written last: where it exists, the stage is done.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ManifestFile(BaseModel):
    """One output file, stored as a content-addressed blob."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # path inside the artifact, for example "pixels/000.parquet"
    sha256: str
    size: int  # bytes


class Manifest(BaseModel):
    """The record of one finished stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    digest: str
    code_digest: str
    config: dict[str, Any]
    inputs: dict[str, str]  # stage name -> artifact digest
    files: list[ManifestFile]
    metrics: dict[str, float | int | str | bool | None]
    notes: list[str]  # fallbacks taken and limits met: shown in the report
    # provenance: not part of any digest
    recipe: str
    created_at: str  # ISO 8601, UTC
    seconds: float
    git_commit: str
    packages: dict[str, str]
    kernels: dict[str, str]
    run: str = ""  # the orchestrator's run, if any
    code: dict[str, str] = Field(default_factory=dict)  # module -> hash: what code_digest covers

    def file(self, name: str) -> ManifestFile:
        """The file called `name`. Raises KeyError."""
        for file in self.files:
            if file.name == name:
                return file
        raise KeyError(name)


def artifact_digest(
    stage: str, code_digest: str, config: dict[str, Any], inputs: dict[str, str]
) -> str:
    """Digest of an artifact that may not exist yet: 16 hex characters of SHA-256."""
    text = json.dumps(
        {"stage": stage, "code": code_digest, "config": config, "inputs": inputs},
        sort_keys=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
