"""What is new in a dataset version: images by source, pairs by category, accepted by split."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kontext.store.artifacts.artifact_store import ArtifactStore
from schemas.manifest import Manifest
from tasks.markdown import table

# what -> (stage, file or folder, key column, grouping column)
_TABLES = {
    "images": ("ingest", "images", "pixel_id", "source"),
    "pairs": ("mine", "pairs.parquet", "pair_id", "relation_class"),
    "accepted pairs": ("shard", "splits.parquet", "pair_id", "split"),
}


@dataclass(frozen=True)
class CountChange:
    """One group of one table."""

    what: str  # images, pairs or accepted pairs
    group: str  # source, category or split
    before: int
    after: int
    added: int
    removed: int


def dataset_changes(
    store: ArtifactStore, before: Manifest | None, after: Manifest
) -> list[CountChange]:
    """Differences between two index artifacts, groups without any left out."""
    found = []
    for what, (stage, file, key, group) in _TABLES.items():
        if stage not in after.inputs:
            continue
        old = _keys(store, before, stage, file, key, group) if before else {}
        new = _keys(store, after, stage, file, key, group)
        for name in sorted(set(old) | set(new)):
            was, now = old.get(name, set()), new.get(name, set())
            if was != now:
                change = CountChange(what, name, len(was), len(now), len(now - was), len(was - now))
                found.append(change)
    return found


def changes_markdown(title: str, changes: Sequence[CountChange]) -> str:
    """The digest of a refresh, for its page."""
    if not changes:
        return f"# {title}\n\nNothing changed: the dataset is the same, row for row.\n"
    rows = [(c.what, c.group, c.before, c.after, f"+{c.added}", f"−{c.removed}") for c in changes]
    headers = ("what", "group", "before", "after", "added", "removed")
    return f"# {title}\n\n{table(headers, rows)}\n"


def _keys(
    store: ArtifactStore, index: Manifest, stage: str, file: str, key: str, group: str
) -> Mapping[str, set[str]]:
    rows = store.open(stage, index.inputs[stage]).table(file).select([key, group])
    found: defaultdict[str, set[str]] = defaultdict(set)
    for value, name in zip(rows[key].to_pylist(), rows[group].to_pylist(), strict=True):
        found[name].add(value)
    return found
