"""Lineage: which artifact was made from which. Every page that shows it is drawn from here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kontext.store.artifacts.artifact_store import ArtifactStore
from schemas.manifest import Manifest

Ref = tuple[str, str]  # stage, digest


@dataclass(frozen=True)
class Lineage:
    """Everything above and below one artifact."""

    root: Ref
    nodes: tuple[Manifest, ...]  # ancestors, the artifact, descendants; oldest first
    edges: tuple[tuple[Ref, Ref], ...]  # (input, output)

    @property
    def mermaid(self) -> str:
        """A mermaid flowchart with the root's box drawn bolder."""
        ids = {(m.stage, m.digest): f"n{i}" for i, m in enumerate(self.nodes)}
        boxes = {ids[ref]: "<br/>".join(ref) for ref in ids}
        arrows = [(ids[a], ids[b]) for a, b in self.edges]
        return flowchart(boxes, arrows) + f"  style {ids[self.root]} stroke-width:3px\n"


def lineage(store: ArtifactStore, ref: str) -> Lineage:
    """Ancestors and descendants of an artifact. Raises ArtifactError for an unknown reference."""
    root = store.resolve(ref)
    manifests = {(m.stage, m.digest): m for m in store.list()}
    below = {ref for ref in manifests if root in ancestors(manifests, {ref})}
    found = below | ancestors(manifests, {root})
    nodes = tuple(m for key, m in manifests.items() if key in found)
    edges = tuple(
        (source, (m.stage, m.digest))
        for m in nodes
        for source in sorted(m.inputs.items())
        if source in found and source in manifests
    )
    return Lineage(root, nodes, edges)


def ancestors(manifests: dict[Ref, Manifest], refs: set[Ref]) -> set[Ref]:
    """`refs` and everything they were made from."""
    found: set[Ref] = set()
    todo = [ref for ref in refs if ref in manifests]
    while todo:
        ref = todo.pop()
        if ref not in found:
            found.add(ref)
            todo += [source for source in manifests[ref].inputs.items() if source in manifests]
    return found


def reduced_edges(inputs: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Edges (input, output) without those that a longer path implies, for drawing.

    Args:
        inputs: the inputs of every node; a node comes after its inputs. Inputs that are no nodes
            themselves are left out.
    """
    above: dict[str, set[str]] = {}
    edges: list[tuple[str, str]] = []
    for node, names in inputs.items():
        known = [name for name in names if name in above]
        implied = set().union(*(above[name] for name in known))
        edges += [(name, node) for name in known if name not in implied]
        above[node] = implied | set(known)
    return edges


def flowchart(
    boxes: Mapping[str, str], edges: Iterable[tuple[str, str]], direction: str = "TD"
) -> str:
    """A mermaid flowchart, one statement per line.

    Args:
        boxes: id -> label. Labels are quoted, because an unquoted @ breaks mermaid's parser. An id
            may end in `:::class`.
        edges: (from, to) ids, without classes.
        direction: TD (downwards) or LR (to the right).
    """
    lines = [f"flowchart {direction}"]
    for name, label in boxes.items():
        box, separator, kind = name.partition(":::")
        lines.append(f'  {box}["{label}"]{separator}{kind}')
    return "\n".join([*lines, *(f"  {a} --> {b}" for a, b in edges)]) + "\n"
