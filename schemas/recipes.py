"""Recipes: everything that decides a result, typed. One small function per named recipe.

A recipe has one section per stage. A stage's artifact digest covers its own section (and its input
artifacts), so changing `distill.seed` redoes distill and what follows, nothing before it. Unknown
keys are errors. The resolved recipe is stored in every manifest. Where things live (store, catalog,
credentials) is environment, never recipe.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


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


# --- models ------------------------------------------------------------------------------------


class AutoencoderShape(Section):
    """FLUX.1's autoencoder geometry: f8, 16 channels; narrow by default (see anchors for full)."""

    in_channels: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    norm_groups: int = 32


class TransformerShape(Section):
    """FLUX.1's transformer geometry. Defaults are FLUX.1-dev's published numbers."""

    in_channels: int = 64
    vec_in_dim: int = 768
    context_in_dim: int = 4096
    hidden_size: int = 3072
    mlp_ratio: float = 4.0
    num_heads: int = 24
    depth: int = 19
    depth_single_blocks: int = 38
    axes_dim: tuple[int, int, int] = (16, 56, 56)
    theta: int = 10_000
    qkv_bias: bool = True
    guidance_embed: bool = True
    timestep_shift: tuple[float, float] = Field(
        (0.5, 1.15), title="Timestep shift mu at 256 and at 4,096 target tokens"
    )
    cached_context: bool = Field(
        False, title="Contexts see only each other, at t = 0, and can be cached (not FLUX.1)"
    )


class GuardConfig(Section):
    """What becomes of a step whose losses are not finite, or leap."""

    on_nan: Literal["stop", "skip", "roll-back"] = Field("stop", title="A loss is not finite")
    on_spike: Literal["keep", "stop", "skip", "roll-back"] = Field("keep", title="A loss leaps")
    spike_factor: float = Field(10.0, title="A leap: so many times the median", gt=1)
    spike_window: int = Field(50, title="Steps the median is taken over", ge=2)
    most: int = Field(5, title="Steps left out before the run stops all the same", ge=1)


class ParameterGroup(Section):
    """Parameters, by their names, with a learning rate and decay of their own."""

    match: str = Field(title="Names, with * and ?: double_blocks.*.img_mod.*")
    lr: float = Field(1.0, title="Times the section's learning rate; 0 freezes them", ge=0)
    weight_decay: float | None = Field(None, title="Weight decay (none: the section's)", ge=0)


class LaunchConfig(Section):
    """Which processes train, and what becomes of a run when one of them dies or hangs."""

    launcher: Literal["in-process", "torchrun", "ray"] = Field(
        "in-process", title="Start ranks: none beside this process, on this machine, on a cluster"
    )
    ranks: int = Field(1, title="Ranks that train together (0: one per device)", ge=0)
    replicas: int = Field(1, title="HSDP: groups of ranks with a copy of the model each", ge=1)
    max_restarts: int = Field(3, title="Times all ranks start again after one died", ge=0)
    stall_seconds: float = Field(
        0.0, title="End a run that makes no step for so long (0: never)", ge=0
    )
    checkpoints: Literal["scratch", "store"] = Field(
        "scratch", title="Keep checkpoints on this machine, or in the store"
    )
    keep: int = Field(2, title="Finished checkpoints kept", ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> LaunchConfig:
        if self.launcher == "in-process" and (self.ranks > 1 or self.replicas > 1):
            raise ValueError("more than one rank needs launcher=torchrun or launcher=ray")
        return self


class AutoencoderConfig(Section):
    shape: AutoencoderShape = AutoencoderShape(
        ch=16, ch_mult=(1, 2, 6, 8), num_res_blocks=1, norm_groups=8
    )
    steps: int = 1300
    batch: int = 16
    optimizer: Literal["adamw", "muon"] = "muon"
    groups: tuple[ParameterGroup, ...] = Field((), title="Parameters with rates of their own")
    lr: float = 5e-3
    lr_critic: float = 5e-4
    warmup: int = 20
    perceptual_start: int = 550
    kl_weight: float = 1e-6
    perceptual_weight: float = 0.3
    embedding_weight: float = Field(0.5, title="Weight of the pooled feature distance", ge=0)
    latent_noise: float = Field(
        0.5, title="Noise the decoder learns to read through, at most, in latent spreads", ge=0
    )
    latent_noise_start: int = Field(
        920, title="Step from which the encoder rests and the decoder reads disturbed latents", ge=0
    )
    perceptual_levels: tuple[int, ...] = Field((0, 1, 2, 3, 4), title="EfficientNet levels")
    disc_start: int = 1190
    disc_weight: float = 0.1
    disc_channels: int = 32
    ema_decay: float = 0.99
    init: str = Field("", title="Start from this autoencoder: a file or train-autoencoder/digest")
    decoder_only: bool = Field(
        False, title="Train the decoder alone: latents stay those of init's encoder"
    )
    perceptual: Literal["efficientnet-lite0", "vgg16"] = Field(
        "efficientnet-lite0", title="Network of the perceptual loss and of LPIPS and rFID"
    )
    perceptual_file: str = Field("", title="torchvision's vgg16 weights, for perceptual=vgg16")
    validate_every: int = Field(0, title="Steps between validations (0: at the end)", ge=0)
    launch: LaunchConfig = LaunchConfig()
    guard: GuardConfig = GuardConfig()
    checkpoint_every: int = 200
    seed: int = 0

    @model_validator(mode="after")
    def _decoder_of_something(self) -> AutoencoderConfig:
        if self.decoder_only and not self.init:
            raise ValueError("decoder_only trains the decoder of given weights: set init too")
        return self


class EncodeConfig(Section):
    text_length: int = Field(20, title="Text tokens", ge=4, le=512)
    batch: int = 128
    shard_rows: int = Field(4096, title="Encoded rows per shard", ge=1)
    seed: int = 0


class ParallelConfig(Section):
    """How a model is laid out over ranks and memory; none of it changes the gradient's formula."""

    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", title="Products in bf16 where the device is fast at it, or always in one"
    )
    recompute: Literal["none", "selective", "full"] = Field(
        "none", title="Activations computed again in the backward pass"
    )
    prefetch: int = Field(1, title="FSDP: blocks gathered ahead of the one that computes", ge=0)
    offload: bool = Field(False, title="Hold activations in the host's memory between the passes")
    compile: str = Field("", title="Compile blocks with this torch.compile backend (empty: eager)")
    kernel: Literal["auto", "sdpa", "math", "flash2", "fa3", "fa4"] = Field(
        "auto", title="Attention kernel"
    )
    context: int = Field(1, title="Ulysses: ranks that share every sequence", ge=1)


class GuidanceConfig(Section):
    """Guidance distillation: the guided velocity in one pass, told the guidance (FLUX.1 [dev])."""

    steps: int = Field(0, title="Steps of guidance distillation after training (0: none)", ge=0)
    low: float = Field(1.0, title="Least guidance", ge=0)
    high: float = Field(5.0, title="Most guidance", ge=0)
    batch: int = Field(48, ge=1)
    lr: float = 2e-4
    warmup: int = 10
    clip: float = 1.0
    ema_decay: float = 0.99


class PictureConfig(Section):
    """Last steps of the flow on edits, compared as decoded pictures (kontext.train.pictures)."""

    steps: int = Field(0, title="Steps judged in pictures, after the flow's (0: none)", ge=0)
    batch: int = Field(24, ge=1)
    lr: float = 1e-3
    warmup: int = 10
    clip: float = 1.0
    perceptual_weight: float = Field(1.0, title="Weight of the feature maps' distance", ge=0)
    embedding_weight: float = Field(1.0, title="Weight of the pooled feature distance", ge=0)
    ema_decay: float = 0.97


class FinetuneConfig(Section):
    shape: TransformerShape = TransformerShape(
        in_channels=64,
        vec_in_dim=384,
        context_in_dim=384,
        hidden_size=256,
        num_heads=4,
        depth=2,
        depth_single_blocks=4,
        axes_dim=(16, 24, 24),
        guidance_embed=False,
    )
    init: str = Field("", title="Start from FLUX.1 weights, a model folder or stage/digest")
    whiten_text: bool = Field(False, title="A fresh model reads its texts whitened from the start")
    lora_rank: int = Field(0, title="Train adapters of this rank only (0: all weights)", ge=0)
    t2i_steps: int = Field(40, title="Phase one: text-to-image from scratch", ge=0)
    joint_steps: int = Field(1060, title="Phase two: joint T2I and I2I", ge=1)
    t2i_share: float = Field(0.1, title="T2I share of the joint phase", ge=0, lt=1)
    batch: int = 48
    accumulate: int = Field(1, title="Parts that a batch is computed in, one after another", ge=1)
    optimizer: Literal["adamw", "adamw-8bit", "adamw-bf16", "muon"] = "muon"
    groups: tuple[ParameterGroup, ...] = Field((), title="Parameters with rates of their own")
    lr: float = 6e-3
    warmup: int = 50
    weight_decay: float = 0.01
    clip: float = 1.0
    text_dropout: float = Field(0.1, title="CFG dropout of the instruction alone", ge=0, lt=1)
    image_dropout: float = Field(0.0, title="CFG dropout of the context image alone", ge=0, lt=1)
    both_dropout: float = Field(0.0, title="CFG dropout of both at once", ge=0, lt=1)
    mask_weight: float = Field(
        0.0, title="Extra loss weight of tokens that the edit changes (0: none)", ge=0
    )
    magnitude_balance: float = Field(
        0.0, title="Draw small and large edits alike: 0 as they come, 1 evenly", ge=0, le=1
    )
    guidance_told: tuple[float, float] = Field(
        (1.0, 1.0), title="Guidance that a model with an embedding is told, from and to"
    )
    pictures: PictureConfig = PictureConfig()
    guidance_distill: GuidanceConfig = GuidanceConfig()
    ema_decay: float = 0.995
    category_weights: dict[str, float] = Field(default_factory=dict)
    validate_every: int = Field(0, title="Steps between validations (0: at the end)", ge=0)
    validate_pairs: int = Field(16, title="Pairs per category of a validation on the way", ge=1)
    parallel: ParallelConfig = ParallelConfig()
    launch: LaunchConfig = LaunchConfig()
    guard: GuardConfig = GuardConfig()
    checkpoint_every: int = 200
    seed: int = 0

    @model_validator(mode="after")
    def _adapters(self) -> FinetuneConfig:
        if self.lora_rank and not self.init:
            raise ValueError("lora_rank trains adapters beside given weights: set init too")
        if self.lora_rank and self.optimizer == "muon":
            raise ValueError(
                "lora_rank needs optimizer=adamw: Muon is for whole matrices, not their factors"
            )
        return self


class DistillConfig(Section):
    teacher_edits: int = Field(1000, title="Synthetic teacher edits", ge=8)
    teacher_steps: int = 4
    guidance: float = Field(1.0, title="Guidance of the synthetic edits", ge=1)
    steps: int = 40
    warmup_steps: int = 8
    student_steps: int = Field(4, title="Steps of the student's sampling grid", ge=1, le=8)
    batch: int = Field(32, title="Batch (a hinge on one sample saturates)", ge=2)
    lr_student: float = 2e-5
    lr_heads: float = 2e-3
    taps: tuple[int, ...] = Field((), title="Blocks with heads (empty: spread)")
    renoise_mean: float = 1.0
    renoise_std: float = 1.0
    r1_weight: float = 0.1
    r1_sigma: float = 0.1
    negative_weight: float = Field(0.5, title="Weight of wrong-condition fakes", ge=0)
    anchor_weight: float = Field(1.0, title="Weight of the distance to the teacher's edit", ge=0)
    clip: float = 1.0
    heads_floor: float = Field(
        0.0, title="Accuracy below which the heads learn twice a step (0: never)", ge=0, le=1
    )
    heads_ceiling: float = Field(
        1.0, title="Accuracy above which the heads pause (1: never)", ge=0, le=1
    )
    ema_decay: float = 0.98
    same_arithmetic: bool = Field(True, title="Stop where kernel or dtype are not the teacher's")
    validate_every: int = Field(0, title="Steps between validations (0: at the end)", ge=0)
    parallel: ParallelConfig = ParallelConfig()
    launch: LaunchConfig = LaunchConfig()
    guard: GuardConfig = GuardConfig()
    checkpoint_every: int = 50
    seed: int = 0


class EvaluateConfig(Section):
    items_per_category: int = Field(60, ge=4)
    teacher_steps: int = 20
    teacher_guidance: float = 1.0
    keep_detail: bool = Field(
        True, title="Give edits back what the autoencoder lost of what they left alone"
    )
    bootstrap: int = 1000
    mask_threshold: float = Field(0.06, title="Pixel change that counts as 'should change' (0-1)")
    same_arithmetic: bool = Field(True, title="Stop where kernel or dtype are not the training's")
    seed: int = 0


class PublishConfig(Section):
    name: str = Field("kontext-demo", title="Model name")


class Recipe(Section):
    """A full pipeline configuration."""

    name: str = "custom"
    ingest: IngestConfig = IngestConfig()
    mine: MineConfig = MineConfig()
    caption: CaptionConfig = CaptionConfig()
    screen: ScreenConfig = ScreenConfig()
    shard: ShardConfig = ShardConfig()
    index: IndexConfig = IndexConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    encode: EncodeConfig = EncodeConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    publish: PublishConfig = PublishConfig()


# Small pictures have few tokens: at FLUX.1's own shift most noised targets still show the edit, and
# what was asked for is learned slowly (docs/training.md).
SMALL_SHIFT = (3.0, 3.0)


def demo() -> Recipe:
    """The README's recipe: 64 px, real emoji and characters, 2 CPU cores, under 20 minutes."""
    flow = FinetuneConfig()
    return Recipe(
        name="demo",
        finetune=flow.model_copy(
            update={
                "shape": flow.shape.model_copy(update={"timestep_shift": SMALL_SHIFT}),
                "whiten_text": True,
                "mask_weight": 3.0,
                "category_weights": {"global": 0.6},
                "pictures": PictureConfig(steps=440),
            }
        ),
    )


def ci() -> Recipe:
    """Two minutes on two cores: every stage for real, at sizes that prove wiring, not quality."""
    return Recipe(
        name="ci",
        ingest=IngestConfig(
            sources=(
                EmojiSource(max_concepts=24, max_people=8),
                MeteoconsSource(),
                DiceBearSource(seeds=8, values_per_attribute=2),
                SignSource(scenes=8, words_per_scene=3),
            )
        ),
        mine=MineConfig(
            miners=("attributes", "references", "singles"), pairs_per_category=120, t2i_singles=100
        ),
        screen=ScreenConfig(clip_steps=20, clip_batch=64),
        shard=ShardConfig(dataset="ci", test_fraction=0.15, val_fraction=0.1),
        autoencoder=AutoencoderConfig(
            shape=AutoencoderShape(ch=16, norm_groups=4),
            steps=20,
            batch=8,
            perceptual_start=8,
            disc_start=12,
        ),
        finetune=FinetuneConfig(
            shape=TransformerShape(
                in_channels=64,
                vec_in_dim=384,
                context_in_dim=384,
                hidden_size=64,
                num_heads=2,
                depth=1,
                depth_single_blocks=2,
                axes_dim=(8, 12, 12),
                guidance_embed=False,
                timestep_shift=SMALL_SHIFT,
            ),
            t2i_steps=6,
            joint_steps=12,
            batch=16,
            checkpoint_every=5,
            whiten_text=True,
            mask_weight=3.0,
            pictures=PictureConfig(steps=4, batch=8),
        ),
        distill=DistillConfig(
            teacher_edits=24, teacher_steps=4, steps=6, warmup_steps=2, batch=8, checkpoint_every=3
        ),
        evaluate=EvaluateConfig(items_per_category=6, teacher_steps=4, bootstrap=100),
        publish=PublishConfig(name="kontext-ci"),
    )


def h200() -> Recipe:
    """One big GPU: 128 px, emoji, characters, weather, signs and cut-outs on photographs.

    Sized so that the pack (`kontext pack`) stays below 60 MiB and training takes slices of ten
    minutes. The numbers of its training sections have not been tuned: no GPU was at hand.
    """
    return Recipe(
        name="h200",
        ingest=IngestConfig(
            sources=(
                EmojiSource(max_concepts=300, max_people=40),
                MeteoconsSource(),
                DiceBearSource(seeds=60),
                SignSource(scenes=150),
                CutoutSource(),
            ),
            resolution=128,
        ),
        mine=MineConfig(pairs_per_category=8000, t2i_singles=2500),
        shard=ShardConfig(dataset="h200"),
        autoencoder=AutoencoderConfig(
            shape=AutoencoderShape(ch=64, ch_mult=(1, 2, 4, 4), num_res_blocks=2, norm_groups=16),
            steps=16_000,
            batch=64,
            lr=2e-3,
            warmup=200,
            perceptual_start=6_000,
            latent_noise_start=11_000,
            disc_start=13_000,
            disc_channels=64,
            ema_decay=0.999,
            checkpoint_every=1000,
        ),
        finetune=FinetuneConfig(
            shape=TransformerShape(
                in_channels=64,
                vec_in_dim=384,
                context_in_dim=384,
                hidden_size=768,
                num_heads=12,
                depth=5,
                depth_single_blocks=10,
                axes_dim=(16, 24, 24),
                guidance_embed=False,
                timestep_shift=SMALL_SHIFT,
            ),
            t2i_steps=2_000,
            joint_steps=34_000,
            whiten_text=True,
            mask_weight=3.0,
            category_weights={"global": 0.6},
            pictures=PictureConfig(steps=4_000, batch=128, lr=2e-4, warmup=100, ema_decay=0.998),
            batch=256,
            lr=1e-3,
            warmup=500,
            ema_decay=0.9995,
            checkpoint_every=1000,
        ),
        distill=DistillConfig(
            teacher_edits=16_000,
            teacher_steps=20,
            steps=4_000,
            warmup_steps=500,
            batch=128,
            ema_decay=0.998,
            checkpoint_every=500,
        ),
        evaluate=EvaluateConfig(items_per_category=200),
        publish=PublishConfig(name="kontext-h200"),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"demo": demo, "ci": ci, "h200": h200}


def load_recipe(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Return the named recipe with `section.key=value` overrides applied.

    Values are parsed as JSON and taken as plain strings where they are not JSON.

    Raises:
        ValueError: unknown recipe, malformed override, unknown key or value out of range.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe '{name}' (known: {', '.join(RECIPES)})")
    data = RECIPES[name]().model_dump(mode="json")
    for override in overrides:
        path, sep, raw = override.partition("=")
        if not sep:
            raise ValueError(f"override '{override}' is not of the form section.key=value")
        _assign(data, path.split("."), _parse(raw), override)
    return Recipe.model_validate(data)


def _parse(raw: str) -> Any:
    try:
        return json.loads(raw)
    except json.JSONDecodeError:
        return raw


def _assign(data: Any, path: list[str], value: Any, override: str) -> None:
    for key in path[:-1]:
        if not isinstance(data, dict) or key not in data:
            raise ValueError(f"override '{override}': no such key '{key}'")
        data = data[key]
    if not isinstance(data, dict) or (path[-1] not in data):
        raise ValueError(f"override '{override}': no such key '{path[-1]}'")
    data[path[-1]] = value
