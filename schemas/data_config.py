"""Recipe sections of the data stages: image sources, mining, captions, screening, shards, index."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of all recipe parts: immutable, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- sources -----------------------------------------------------------------------------------


EmojiFamily = Literal["color", "keycap", "word", "clock", "arrow"]
FAMILIES: tuple[EmojiFamily, ...] = ("color", "keycap", "word")  # local edits are plentiful


class EmojiSource(Section):
    """Iconify emoji sets from npm (`node_modules/@iconify-json/*`)."""

    kind: Literal["emoji"] = "emoji"
    sets: tuple[str, ...] = Field(
        (
            "fluent-emoji-flat",
            "fluent-emoji-high-contrast",
            "fluent-emoji",
            "noto",
            "noto-v1",
            "twemoji",
            "openmoji",
            "emojione",
        ),
        title="Icon sets",
    )
    max_concepts: int = Field(140, title="Concepts to sample", ge=1)
    max_people: int = Field(30, title="People and hands to sample, in all skin tones", ge=0)
    people_sets: tuple[str, ...] = Field(("fluent-emoji-flat", "noto"), title="Sets for people")
    families: tuple[EmojiFamily, ...] = Field(FAMILIES, title="Families with one label each")
    seed: int = 0


class MeteoconsSource(Section):
    """Weather icons: day/night and weather changes (`@iconify-json/meteocons`)."""

    kind: Literal["meteocons"] = "meteocons"


class DiceBearSource(Section):
    """Parametric characters: one base per seed plus single-attribute variants with exact labels."""

    kind: Literal["dicebear"] = "dicebear"
    styles: tuple[str, ...] = Field(
        ("micah", "toon-head", "dylan", "big-smile", "landscape"), title="Art styles"
    )
    seeds: int = Field(40, title="Characters or scenes per style", ge=1)
    values_per_attribute: int = Field(3, title="Values tried per attribute", ge=1)
    seed: int = 0


class SignSource(Section):
    """Painted signs: short words in a real font on a coloured board over a drawn scene."""

    kind: Literal["signs"] = "signs"
    scenes: int = Field(100, title="Scenes", ge=1)
    words: tuple[str, ...] = Field((), title="Words (empty: the built-in list)")
    words_per_scene: int = Field(5, title="Words per scene", ge=2)
    seed: int = 0


class OpenMojiWheelSource(Section):
    """OpenMoji from its wheel, for machines without npm: as drawn, its lines, its colours."""

    kind: Literal["openmoji-wheel"] = "openmoji-wheel"
    max_concepts: int = Field(500, title="Concepts to sample, in three drawings each", ge=1)
    max_people: int = Field(60, title="People and hands to sample, in all skin tones", ge=0)
    families: tuple[EmojiFamily, ...] = Field(FAMILIES, title="Families with one label each")
    seed: int = 0


class CutoutSource(Section):
    """Cut-outs on landscape photographs, from two Debian packages (`make debian-art`)."""

    kind: Literal["cutouts"] = "cutouts"
    scenes: int = Field(130, title="Groups of two places and two cut-outs", ge=1)
    seed: int = 0


class FolderSource(Section):
    """A folder of images, read recursively. Sub-folder = group; `stem__attr=value` sets labels."""

    kind: Literal["folder"] = "folder"
    path: str = Field(title="Folder")
    license_spdx: str = Field("LicenseRef-unknown", title="Licence (SPDX id)")
    author: str = Field("unknown", title="Author")


Source = Annotated[
    EmojiSource
    | MeteoconsSource
    | DiceBearSource
    | SignSource
    | OpenMojiWheelSource
    | CutoutSource
    | FolderSource,
    Field(discriminator="kind"),
]


# --- data stages -------------------------------------------------------------------------------


class IngestConfig(Section):
    sources: tuple[Source, ...] = Field(
        (EmojiSource(), MeteoconsSource(), DiceBearSource(), SignSource()), title="Image sources"
    )
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
    miners: tuple[str, ...] = Field(
        ("attributes", "singles"), title="Miners: attributes, references, singles"
    )
    pairs_per_category: int = Field(4000, title="Directed pairs kept per category", ge=1)
    t2i_singles: int = Field(3000, title="Text-to-image singles (no context)", ge=0)
    skin_tone_share: float = Field(0.15, title="Skin-tone share of local edits", gt=0, le=1)
    style_overlap_min: float = Field(0.82, title="Silhouette overlap of style pairs", ge=0, le=1)
    pairs_per_image: int = Field(24, title="Pairs one target image may appear in", ge=1)
    seed: int = 0


class CaptionConfig(Section):
    captioner: Literal["templates", "chat"] = Field("templates", title="Captioner")
    paraphrases: int = Field(6, title="Paraphrases per relation", ge=1)
    endpoint: str = Field("", title="OpenAI-compatible endpoint of the chat captioner, with /v1")
    model: str = Field("", title="Model name of the chat captioner")
    chunk_size: int = Field(512, title="Pairs per chunk of the chat captioner", ge=1, le=4096)
    parallel: int = Field(8, title="Requests in flight to the chat captioner", ge=1)
    seed: int = 0


class ScreenConfig(Section):
    classifiers: tuple[str, ...] = Field(("open-nsfw", "nudenet"), title="Image classifiers")
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
