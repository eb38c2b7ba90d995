"""Recipe sections of the data stages: image sources, mining, captions, screening, shards, index."""

from typing import Annotated, Any

from pydantic import Field

from schemas.discovery import PluginOf
from schemas.own_names import NAME
from schemas.sections.base import Section
from schemas.sections.sources import Source

_SOURCES: Any = tuple({"kind": kind} for kind in ("emoji", "meteocons", "dicebear", "signs"))

_Miner = Annotated[str, PluginOf("kontext.data.mine", "mine")]
_Captioner = Annotated[str, PluginOf("kontext.data.caption", "captioner")]
_Classifier = Annotated[str, PluginOf("kontext.safety.classifiers", "load")]


class IngestConfig(Section):
    """Which images are read, and how they are checked."""

    sources: tuple[Source, ...] = Field(_SOURCES, validate_default=True, title="Image sources")
    npm_fallback: bool = Field(True, title="Use images from pip where npm's are missing (is noted)")
    resolution: int = Field(
        64, title="Side of an image in training, in pixels", ge=16, le=4096, multiple_of=16
    )
    max_side: int = Field(2048, title="Longer side of a stored picture, at most, in pixels", ge=64)
    background: str = Field("#ffffff", title="Colour behind transparent pixels")
    hash_lists: tuple[str, ...] = Field((), title="Hash list files (never stored, never logged)")
    allow_unlisted: bool = Field(True, title="Run without an external hash list (is noted)")
    canaries: int = Field(3, title="Harmless test images that the hash gate must stop", ge=0)
    chunk_size: int = Field(512, title="Images per work chunk", ge=1, le=4096)
    processes: int = Field(2, title="Worker processes", ge=1)


class MineConfig(Section):
    """Which pairs of images are proposed, and how many are kept."""

    miners: tuple[_Miner, ...] = Field(("attributes", "singles"), title="Miners")
    pairs_per_category: int = Field(4000, title="Directed pairs kept per category, at most", ge=1)
    t2i_singles: int = Field(3000, title="Text-to-image pairs (no context) kept, at most", ge=0)
    skin_tone_share: float = Field(0.15, title="Skin tones among local edits, at most", gt=0, le=1)
    style_overlap_min: float = Field(0.82, title="Least silhouette IoU of style pairs", ge=0, le=1)
    pairs_per_image: int = Field(
        24, title="Pairs per relation with one target image, at most", ge=1
    )
    seed: int = Field(0, title="Seed")


class CaptionConfig(Section):
    """Who writes the instructions."""

    captioner: _Captioner = Field("templates", title="Captioner")
    paraphrases: int = Field(20, title="Paraphrases used per relation, at most", ge=1)
    endpoint: str = Field("", title="OpenAI-compatible endpoint of the chat captioner, with /v1")
    model: str = Field("", title="Model name of the chat captioner")
    chunk_size: int = Field(512, title="Pairs per chunk of the chat captioner", ge=1, le=4096)
    parallel: int = Field(8, title="Parallel requests to the chat captioner", ge=1)
    seed: int = Field(0, title="Seed of the choice among paraphrases")


class ScreenConfig(Section):
    """Safety and quality checks of pairs."""

    classifiers: tuple[_Classifier, ...] = Field(
        ("open-nsfw", "nudenet"), title="Image classifiers"
    )
    policy: str = Field("default", title="Safety policy: a name or a .json file")
    clip_steps: int = Field(200, title="Training steps of the small CLIP heads", ge=1)
    clip_batch: int = Field(512, title="Batch of the small CLIP heads, in pairs of image and text")
    processes: int = Field(2, title="Worker processes", ge=1)
    seed: int = Field(0, title="Seed of the small CLIP heads")


class ShardConfig(Section):
    """Splits and shards of the dataset."""

    dataset: str = Field("demo", title="Dataset name", pattern=NAME)
    max_pairs_per_shard: int = Field(4096, title="Pairs per shard, at most", ge=1)
    test_fraction: float = Field(0.06, title="Share of test pairs, by component", gt=0, lt=0.5)
    val_fraction: float = Field(0.03, title="Share of validation pairs, by component", gt=0, lt=0.5)
    near_duplicate_bits: int = Field(
        10, title="PDQ distance of near-duplicates, at most, in bits", ge=0, le=31
    )
    near_duplicate_l1: float = Field(
        0.1, title="Mean pixel difference of near-duplicates, at most (0 to 1)", ge=0, le=1
    )
    seed: int = Field(0, title="Seed of the split")


class IndexConfig(Section):
    """The dataset version in the catalog."""

    message: str = Field("", title="Commit message of the catalog snapshot")
