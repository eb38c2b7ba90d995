"""The lineage of a run, from manifests: every artifact, its inputs, and a mermaid diagram."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kontext.engine.graph import of_run
from kontext.engine.stage import Stage
from kontext.store.artifacts.lineage import flowchart
from schemas.manifest import Manifest

_DETAILS = {"code_digest", "config", "metrics", "git_commit"}


@dataclass(frozen=True)
class RunLineage:
    """Artifacts (stage -> digest) and edges (input stage, stage), in stage order."""

    digests: dict[str, str]
    edges: tuple[tuple[str, str], ...]
    manifests: Mapping[str, Manifest]

    def as_json(self) -> dict[str, Any]:
        """What `lineage.json` holds: per artifact its inputs, code, recipe section and commit."""
        rows = []
        for stage, digest in self.digests.items():
            inputs = {a: self.digests[a] for a, b in self.edges if b == stage}
            row = {"stage": stage, "digest": digest, "inputs": inputs}
            if manifest := self.manifests.get(stage):
                row |= manifest.model_dump(include=_DETAILS)
                row["files"] = {file.name: file.sha256 for file in manifest.files}
            rows.append(row)
        return {"artifacts": rows}

    def mermaid(self) -> str:
        """A flowchart with one box per artifact."""
        names = {stage: stage.replace("-", "_") for stage in self.digests}
        boxes = {names[s]: f"{s}<br/>{digest[:12]}" for s, digest in self.digests.items()}
        return flowchart(boxes, [(names[a], names[b]) for a, b in self.edges], "LR")


def run_lineage(manifests: Mapping[str, Manifest], stages: Mapping[str, Stage]) -> RunLineage:
    """The trail of everything that `manifests` (of stages) are of and name.

    Where a manifest is not at hand, the graph's own edges are drawn.

    Args:
        stages: the stage graph, in execution order.
    """
    digests = {stage: manifest.digest for stage, manifest in manifests.items()}
    for manifest in manifests.values():
        digests |= manifest.inputs
    graph = of_run(stages, digests)
    ordered = {stage: digests[stage] for stage in stages if stage in digests}
    edges = []
    for stage in ordered:
        sources = manifests[stage].inputs if stage in manifests else graph[stage].inputs
        edges += [(source, stage) for source in ordered if source in sources]
    return RunLineage(ordered, tuple(edges), manifests)
