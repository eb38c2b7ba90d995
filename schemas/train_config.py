"""Recipe sections of the stages that train, score and publish, and the shapes of their models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.data_config import Section

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
    stream: bool = Field(
        False, title="Read training images from the shards as they are needed, not into memory"
    )
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
    launch: LaunchConfig = LaunchConfig()
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
    """Last steps of the flow on edits, compared as decoded pictures (kontext.train.methods.pictures)."""

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
    accumulate: int = Field(1, title="Parts that a batch is computed in, one after another", ge=1)
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
