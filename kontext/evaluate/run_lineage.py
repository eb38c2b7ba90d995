"""The lineage of a run, from manifests: every artifact, its inputs, and a mermaid diagram."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kontext.engine.stage import Stage
from kontext.store.artifacts.lineage import flowchart
from schemas.manifest import Manifest


@dataclass(frozen=True)
class RunLineage:
    """Artifacts (stage -> digest) and edges (input stage, stage), in stage order."""

    digests: dict[str, str]
    edges: tuple[tuple[str, str], ...]
    manifests: dict[str, Manifest]

    def as_json(self) -> dict[str, Any]:
        """What `lineage.json` holds: per artifact its inputs, code, recipe section and commit."""
        return {
            "artifacts": [
                {
                    "stage": stage,
                    "digest": digest,
                    "inputs": {a: self.digests[a] for a, b in self.edges if b == stage},
                    **self._details(stage),
                }
                for stage, digest in self.digests.items()
            ]
        }

    def mermaid(self) -> str:
        """A flowchart with one box per artifact."""
        names = {stage: stage.replace("-", "_") for stage in self.digests}
        boxes = {names[s]: f"{s}<br/>{digest[:12]}" for s, digest in self.digests.items()}
        return flowchart(boxes, [(names[a], names[b]) for a, b in self.edges], "LR")

    def _details(self, stage: str) -> dict[str, Any]:
        manifest = self.manifests.get(stage)
        if manifest is None:
            return {}
        return {
            "code_digest": manifest.code_digest,
            "config": manifest.config,
            "metrics": manifest.metrics,
            "git_commit": manifest.git_commit,
            "files": {file.name: file.sha256 for file in manifest.files},
        }


def run_lineage(
    manifests: Mapping[str, Manifest], inputs: Mapping[str, str], stages: Mapping[str, Stage]
) -> RunLineage:
    """The trail of everything that `inputs` (stage -> digest) and their manifests name.

    Where a manifest is not at hand, the graph's own edges are drawn.

    Args:
        stages: the stage graph, in execution order.
    """
    digests = dict(inputs)
    for manifest in manifests.values():
        digests.update(manifest.inputs)
    ordered = {stage: digests[stage] for stage in stages if stage in digests}
    edges = []
    for stage in ordered:
        sources = manifests[stage].inputs if stage in manifests else stages[stage].inputs
        edges += [(source, stage) for source in ordered if source in sources]
    return RunLineage(ordered, tuple(edges), dict(manifests))
