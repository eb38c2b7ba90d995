"""Manifests as rows of the catalog."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

import pyarrow as pa

from schemas.catalog import ARTIFACTS, METRICS, RUNS
from schemas.manifest import Manifest


def parents(inputs: Mapping[str, str]) -> list[dict[str, str]]:
    """Input artifacts as the catalog lists them."""
    return [{"stage": stage, "digest": digest} for stage, digest in sorted(inputs.items())]


def manifest_rows(manifest: Manifest) -> dict[str, pa.Table]:
    """Rows of runs, artifacts and metrics for one finished stage."""
    key = {"stage": manifest.stage, "digest": manifest.digest}
    run = {
        **key,
        "recipe": manifest.recipe,
        "config": json.dumps(manifest.config, sort_keys=True),
        "code_digest": manifest.code_digest,
        "inputs": parents(manifest.inputs),
        "created_at": datetime.fromisoformat(manifest.created_at),
        "seconds": manifest.seconds,
        "git_commit": manifest.git_commit,
        "packages": json.dumps(manifest.packages, sort_keys=True),
        "kernels": json.dumps(manifest.kernels, sort_keys=True),
        "notes": manifest.notes,
        "run": manifest.run,
    }
    files = [{**key, "file": f.name, "sha256": f.sha256, "bytes": f.size} for f in manifest.files]
    metrics = [
        {
            **key,
            "name": name,
            "value": None if value is None or isinstance(value, str) else float(value),
            "text": value if isinstance(value, str) else "",
        }
        for name, value in sorted(manifest.metrics.items())
    ]
    return {
        "runs": pa.Table.from_pylist([run], schema=RUNS),
        "artifacts": pa.Table.from_pylist(files, schema=ARTIFACTS),
        "metrics": pa.Table.from_pylist(metrics, schema=METRICS),
    }
