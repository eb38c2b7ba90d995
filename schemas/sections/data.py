"""Recipe sections of the data stages: image sources, mining, captions, screening, shards, index."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from schemas.discovery import PluginOf
from schemas.sections.base import Section
from schemas.sections.sources import Source

_SOURCES: Any = tuple({"kind": kind} for kind in ("emoji", "meteocons", "dicebear", "signs"))


class IngestConfig(Section):
    sources: tuple[Source, ...] = Field(_SOURCES, validate_default=True, title="Image sources")
    npm_fallback: bool = Field(
        True, title="Where npm's images are missing, take those that pip ships (recorded)"
    )
    resolution: int = Field(64, title="Canonical side in pixels", ge=16, le=4096, multiple_of=16)
    background: str = Field("#ffffff", title="Colour under transparency")
    hash_lists: tuple[str, ...] = Field((), title="Hash list files (never committed, never logged)")
    allow_unlisted: bool = Field(True, title="Run without an external hash list (recorded)")
    canaries: int = Field(3, title="Benign canaries injected to prove the hash gate", ge=0)
    chunk_size: int = Field(512, title="Images per work chunk", ge=1, le=4096)
    processes: int = Field(2, title="Worker processes", ge=1)


class MineConfig(Section):
    miners: tuple[Annotated[str, PluginOf("kontext.data.mine", "mine")], ...] = Field(
        ("attributes", "singles"), title="Miners"
    )
    pairs_per_category: int = Field(4000, title="Directed pairs kept per category", ge=1)
    t2i_singles: int = Field(3000, title="Text-to-image singles (no context)", ge=0)
    skin_tone_share: float = Field(0.15, title="Skin-tone share of local edits", gt=0, le=1)
    style_overlap_min: float = Field(0.82, title="Silhouette overlap of style pairs", ge=0, le=1)
    pairs_per_image: int = Field(24, title="Pairs one target image may appear in", ge=1)
    seed: int = 0


class CaptionConfig(Section):
    captioner: Annotated[str, PluginOf("kontext.data.caption", "captioner")] = Field(
        "templates", title="Captioner"
    )
    paraphrases: int = Field(6, title="Paraphrases per relation", ge=1)
    endpoint: str = Field("", title="OpenAI-compatible endpoint of the chat captioner, with /v1")
    model: str = Field("", title="Model name of the chat captioner")
    chunk_size: int = Field(512, title="Pairs per chunk of the chat captioner", ge=1, le=4096)
    parallel: int = Field(8, title="Requests in flight to the chat captioner", ge=1)
    seed: int = 0


class ScreenConfig(Section):
    classifiers: tuple[Annotated[str, PluginOf("kontext.safety.classifiers", "load")], ...] = Field(
        ("open-nsfw", "nudenet"), title="Image classifiers"
    )
    policy: str = Field("default", title="Safety policy file")
    clip_steps: int = Field(200, title="Steps to train the small CLIP heads", ge=1)
    clip_batch: int = 512
    processes: int = Field(2, ge=1)
    seed: int = 0


class ShardConfig(Section):
    dataset: str = Field("demo", title="Dataset name")
    max_pairs_per_shard: int = Field(4096, ge=1)
    test_fraction: float = Field(0.06, title="Held-out test share (by component)", gt=0, lt=0.5)
    val_fraction: float = Field(0.03, title="Held-out validation share", gt=0, lt=0.5)
    near_duplicate_bits: int = Field(10, title="PDQ distance of near-duplicates", ge=0, le=31)
    near_duplicate_l1: float = Field(
        0.1, title="Mean pixel difference of near-duplicates (0-1)", ge=0, le=1
    )
    seed: int = 0


class IndexConfig(Section):
    message: str = Field("", title="Commit message of the catalog snapshot")
