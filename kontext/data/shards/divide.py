"""From finished artifacts to pairs in splits: all that comes before anything is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kontext.data.pixels import Pixels
from kontext.data.shards import select
from kontext.data.shards.select import Selected
from kontext.data.split import Components, assign, components
from kontext.errors import GateError
from kontext.store.artifacts.artifact_store import Artifact
from schemas.sections.data import ShardConfig

_COLUMNS = ("pixel_id", "group_key", "source", "concept", "pdq", "pdq_quality")  # of IMAGES


@dataclass(frozen=True)
class Divided:
    """Pairs, the components of their images, and the split of every component."""

    selected: Selected
    components: Components
    splits: dict[str, str]


def divide(
    inputs: Mapping[str, Artifact],
    config: ShardConfig,
    rgb: Callable[[str], Pixels],
    before: Mapping[str, str],
) -> Divided:
    """Select the accepted pairs and divide them into splits.

    Args:
        inputs: the artifacts of ingest, mine, caption and screen.
        rgb: pixels by id; asked only for images whose hashes are near.
        before: pixel id -> split in earlier versions of the dataset.

    Raises GateError where no pair was accepted.
    """
    images = inputs["ingest"].table("images", _COLUMNS).combine_chunks()
    selected = select.select_pairs(
        inputs["mine"].path("pairs.parquet"),
        inputs["caption"].path("captions.parquet"),
        inputs["screen"].table("accepted.parquet"),
        images["pixel_id"].combine_chunks(),
    )
    found = components(
        images,
        select.ties(selected),
        rgb,
        near_bits=config.near_duplicate_bits,
        near_l1=config.near_duplicate_l1,
        before=before,
    )
    selected = select.drop_divided_pairs(selected, found)
    if not len(selected):
        raise GateError(f"no pair was accepted (dropped: {dict(selected.dropped)})")
    splits = assign(
        select.class_counts(selected, found),
        test_fraction=config.test_fraction,
        val_fraction=config.val_fraction,
        seed=config.seed,
        kept=found.kept,
    )
    selected = select.drop_cross_split_pairs(selected, found, splits)
    return Divided(selected, found, splits)
