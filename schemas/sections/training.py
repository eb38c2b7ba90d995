"""Recipe sections of the stages that train, and of what they share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.discovery import DeclaredIn
from schemas.sections.base import Section
from schemas.sections.models import AutoencoderShape, TransformerShape


class GuardConfig(Section):
    """What a run does after a step whose loss is not finite, or far above the recent ones."""

    on_nan: Literal["stop", "skip", "roll-back"] = Field("stop", title="When a loss is not finite")
    on_spike: Literal["keep", "stop", "skip", "roll-back"] = Field("keep", title="At a loss spike")
    spike_factor: float = Field(10.0, title="Spike: loss over its recent median, as a factor", gt=1)
    spike_window: int = Field(50, title="Steps that the median is taken over", ge=2)
    most: int = Field(5, title="Bad steps in all before the run stops", ge=1)


class ParameterGroup(Section):
    """Parameters, chosen by name, with their own learning rate and weight decay."""

    match: str = Field(title="Parameter names, with * and ?, such as double_blocks.*.img_mod.*")
    lr: float = Field(1.0, title="Learning rate, as a multiple of the section's (0: frozen)", ge=0)
    weight_decay: float | None = Field(None, title="Weight decay (null: the section's)", ge=0)


class LaunchConfig(Section):
    """Which processes train, and what happens when one of them dies or hangs."""

    launcher: Literal["in-process", "torchrun", "ray"] = Field(
        "in-process", title="Where ranks run: in this process, on this machine, on a Ray cluster"
    )
    ranks: int = Field(1, title="Ranks that train together (0: one per device)", ge=0)
    replicas: int = Field(1, title="Groups of ranks that each hold the whole model (HSDP)", ge=1)
    max_restarts: int = Field(3, title="Restarts of all ranks after one died, at most", ge=0)
    stall_seconds: float = Field(
        0.0, title="End a run that makes no step for this many seconds (0: never)", ge=0
    )
    checkpoints: Literal["scratch", "store"] = Field(
        "scratch", title="Where checkpoints are kept: on this machine, or in the store"
    )
    keep: int = Field(2, title="Checkpoints kept", ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> LaunchConfig:
        if self.launcher == "in-process" and (self.ranks > 1 or self.replicas > 1):
            raise ValueError("more than one rank needs launcher=torchrun or launcher=ray")
        return self


class AutoencoderConfig(Section):
    """The autoencoder: L1, perceptual and adversarial loss, then a decoder robust to noise."""

    shape: AutoencoderShape = Field(
        AutoencoderShape(ch=16, ch_mult=(1, 2, 6, 8), num_res_blocks=1, norm_groups=8),
        title="Shape of the network",
    )
    steps: int = Field(1300, title="Training steps")
    batch: int = Field(16, title="Batch, in images")
    optimizer: Literal["adamw", "muon"] = Field("muon", title="Optimizer")
    groups: tuple[ParameterGroup, ...] = Field((), title="Parameters with their own learning rates")
    lr: float = Field(5e-3, title="Learning rate")
    lr_critic: float = Field(5e-4, title="Learning rate of the discriminator")
    warmup: int = Field(20, title="Warm-up of the learning rate, in steps")
    perceptual_start: int = Field(550, title="Step from which the perceptual loss counts")
    kl_weight: float = Field(1e-6, title="Weight of the KL divergence")
    perceptual_weight: float = Field(0.3, title="Weight of the perceptual loss")
    embedding_weight: float = Field(0.5, title="Weight of the distance of pooled features", ge=0)
    latent_noise: float = Field(
        0.5, title="Largest noise on latents in decoder training, in standard deviations", ge=0
    )
    latent_noise_start: int = Field(
        920, title="Step from which the encoder is frozen and latents are noised", ge=0
    )
    perceptual_levels: tuple[int, ...] = Field(
        (0, 1, 2, 3, 4), title="EfficientNet levels of the perceptual loss"
    )
    disc_start: int = Field(1190, title="Step from which the discriminator counts")
    disc_weight: float = Field(0.1, title="Weight of the adversarial loss")
    disc_channels: int = Field(32, title="Channels of the discriminator")
    ema_decay: float = Field(0.99, title="Decay of the exponential moving average, per step")
    given: Literal["nothing", "decoder", "all"] = Field(
        "nothing",
        title="What is trained of given weights (weights.autoencoder): nothing, the decoder, or "
        "all, after which scale and shift are measured anew",
    )
    perceptual: Literal["efficientnet-lite0", "vgg16"] = Field(
        "efficientnet-lite0", title="Network of the perceptual loss, LPIPS and rFID"
    )
    perceptual_file: str = Field("", title="torchvision's vgg16 weights (for perceptual=vgg16)")
    crop: int = Field(
        0,
        title="Side of random crops, in pixels (0: whole images; of several sizes, the shortest "
        "side there is)",
        ge=0,
        multiple_of=16,
    )
    validate_every: int = Field(0, title="Steps between validations (0: at the end)", ge=0)
    launch: LaunchConfig = Field(LaunchConfig(), title="Processes")
    guard: GuardConfig = Field(GuardConfig(), title="Bad steps")
    checkpoint_every: int = Field(200, title="Steps between checkpoints")
    seed: int = Field(0, title="Seed")

    @property
    def decoder_only(self) -> bool:
        """Whether the encoder stays that of given weights, and with it every latent."""
        return self.given == "decoder"


class EncodeConfig(Section):
    """Latents and text tokens of every pair, computed once."""

    text_length: int = Field(20, title="Length of a text, in tokens", ge=4, le=512)
    prompts: tuple[str, ...] = Field(
        (), title="Texts of one's own that finetune shows samples of, encoded with the data's"
    )
    batch: int = Field(128, title="Batch, in images")
    shard_rows: int = Field(4096, title="Pairs per encoded shard", ge=1)
    launch: LaunchConfig = Field(LaunchConfig(), title="Processes")
    seed: int = Field(0, title="Seed")


class ParallelConfig(Section):
    """How a model is laid out over ranks and memory. The gradient is the same for all choices."""

    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", title="Precision of matrix products (auto: bf16 where the device is fast at it)"
    )
    recompute: Literal["none", "selective", "full"] = Field(
        "none", title="Activation checkpointing: what the backward pass recomputes"
    )
    prefetch: int = Field(1, title="Blocks that FSDP gathers ahead", ge=0)
    offload: bool = Field(False, title="Offload activations to host memory until the backward pass")
    swap: int = Field(
        0, title="Blocks whose frozen weights wait in host memory (adapters only; 0: none)", ge=0
    )
    compile: str = Field("", title="torch.compile backend for the blocks (empty: eager)")
    kernel: Literal["auto", "sdpa", "math", "flash2", "fa3", "fa4"] = Field(
        "auto", title="Attention kernel"
    )
    context: int = Field(1, title="Ranks that share each sequence (Ulysses)", ge=1)


class GuidanceConfig(Section):
    """Guidance distillation: one pass gives the guided velocity, as in FLUX.1 [dev]."""

    steps: int = Field(0, title="Training steps, after those of the flow (0: none)", ge=0)
    low: float = Field(1.0, title="Smallest guidance scale", ge=0)
    high: float = Field(5.0, title="Largest guidance scale", ge=0)
    batch: int = Field(48, title="Batch, in pairs", ge=1)
    lr: float = Field(2e-4, title="Learning rate")
    warmup: int = Field(10, title="Warm-up of the learning rate, in steps")
    clip: float = Field(1.0, title="Largest gradient norm")
    ema_decay: float = Field(0.99, title="Decay of the exponential moving average, per step")


class PictureConfig(Section):
    """Last training steps, whose loss compares decoded images (kontext.train.methods.pictures)."""

    steps: int = Field(0, title="Training steps, after those of the flow (0: none)", ge=0)
    batch: int = Field(24, title="Batch, in pairs", ge=1)
    lr: float = Field(1e-3, title="Learning rate")
    warmup: int = Field(10, title="Warm-up of the learning rate, in steps")
    clip: float = Field(1.0, title="Largest gradient norm")
    perceptual_weight: float = Field(1.0, title="Weight of the distance between feature maps", ge=0)
    embedding_weight: float = Field(1.0, title="Weight of the distance of pooled features", ge=0)
    ema_decay: float = Field(0.97, title="Decay of the exponential moving average, per step")


Weights = dict[str, Annotated[float, Field(ge=0)]]  # of sampling; 0: none are drawn
AfterFlow = GuidanceConfig | PictureConfig  # of the methods that train a flow further


class FinetuneConfig(Section):
    """The teacher: flow matching on text-to-image and on edits."""

    shape: TransformerShape = Field(
        TransformerShape(
            in_channels=64,
            vec_in_dim=384,
            context_in_dim=384,
            hidden_size=256,
            num_heads=4,
            depth=2,
            depth_single_blocks=4,
            axes_dim=(16, 24, 24),
            guidance_embed=False,
        ),
        title="Shape of the network (that of given weights is theirs)",
    )
    whiten_text: bool = Field(False, title="Whiten text embeddings (for training from scratch)")
    lora_rank: int = Field(0, title="Rank of LoRA adapters (0: train all weights)", ge=0)
    lora_alpha: float = Field(0.0, title="Adapters are scaled by alpha / rank (0: by 1)", ge=0)
    lora_targets: tuple[str, ...] = Field(
        (),
        title="Layers with adapters, by name with * and ?, such as single_blocks.*.linear1 (empty: "
        "all linear layers of the blocks, save modulation)",
    )
    lora_base: Literal["stored", "int8", "fp8", "nf4"] = Field(
        "stored",
        title="How the frozen weights beside adapters are held (stored: in the dtype of their "
        "file; else the linear layers of the blocks are quantised, save modulation)",
    )
    t2i_steps: int = Field(40, title="Steps of phase one: text-to-image alone", ge=0)
    joint_steps: int = Field(1060, title="Steps of phase two: text-to-image and edits", ge=1)
    t2i_share: float = Field(0.1, title="Share of text-to-image in phase two", ge=0, lt=1)
    batch: int = Field(48, title="Batch, in pairs")
    accumulate: int = Field(1, title="Gradient accumulation: parts of a batch", ge=1)
    optimizer: Literal["adamw", "adamw-8bit", "adamw-bf16", "muon"] = Field(
        "muon", title="Optimizer"
    )
    groups: tuple[ParameterGroup, ...] = Field((), title="Parameters with their own learning rates")
    lr: float = Field(6e-3, title="Learning rate")
    warmup: int = Field(50, title="Warm-up of the learning rate, in steps")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", title="Learning rate after the warm-up: down to 2 % along half a cosine or a line"
    )
    weight_decay: float = Field(0.01, title="Weight decay")
    clip: float = Field(1.0, title="Largest gradient norm")
    text_dropout: float = Field(0.1, title="Probability of dropping the text alone", ge=0, lt=1)
    image_dropout: float = Field(0.0, title="Probability of dropping the context alone", ge=0, lt=1)
    both_dropout: float = Field(0.0, title="Probability of dropping both", ge=0, lt=1)
    mask_weight: float = Field(0.0, title="Extra loss weight of changed tokens (0: none)", ge=0)
    magnitude_balance: float = Field(
        0.0, title="Sampling by size of edit: 0 as they are, 1 all sizes evenly", ge=0, le=1
    )
    guidance_told: tuple[float, float] = Field(
        (1.0, 1.0), title="Range of the guidance scale fed to a guidance embedding"
    )
    pictures: PictureConfig = Field(PictureConfig(), title="Steps on decoded images")
    guidance_distill: GuidanceConfig = Field(GuidanceConfig(), title="Guidance distillation")
    ema_decay: float = Field(0.995, title="Decay of the exponential moving average, per step")
    category_weights: Weights = Field(
        default_factory=dict, title="Sampling weight by category (1 where none is given)"
    )
    size_weights: Weights = Field(
        default_factory=dict,
        title="Sampling weight of edits in a category by the target's size, such as 832x1248 (1 "
        "where none is given)",
    )
    source_weights: Weights = Field(
        default_factory=dict,
        title="Sampling weight of each source of pairs as a whole, such as pairs:mine (1 where "
        "none is given; empty: a source counts by its pairs)",
    )
    validate_every: int = Field(0, title="Steps between validations (0: at the end)", ge=0)
    validate_pairs: int = Field(16, title="Pairs per category of a validation in training", ge=1)
    patience: int = Field(
        0, title="Validations without a better loss after which training ends (0: never)", ge=0
    )
    parallel: ParallelConfig = Field(ParallelConfig(), title="Layout over ranks and memory")
    launch: LaunchConfig = Field(LaunchConfig(), title="Processes")
    guard: GuardConfig = Field(GuardConfig(), title="Bad steps")
    checkpoint_every: int = Field(200, title="Steps between checkpoints")
    seed: int = Field(0, title="Seed")

    @model_validator(mode="after")
    def _dropout(self) -> FinetuneConfig:
        dropped = self.text_dropout + self.image_dropout + self.both_dropout
        if dropped > 1:
            raise ValueError("text_dropout, image_dropout and both_dropout sum to more than 1")
        if self.guidance_distill.steps and not self.text_dropout + self.both_dropout:
            raise ValueError(
                "guidance_distill needs text_dropout: its teacher is guided away from what it "
                "draws without a text"
            )
        return self

    @model_validator(mode="after")
    def _ending(self) -> FinetuneConfig:
        if self.patience and not self.validate_every:
            raise ValueError("patience counts validations in training: set validate_every too")
        return self

    @model_validator(mode="after")
    def _adapters(self) -> FinetuneConfig:
        if self.lora_rank and self.optimizer == "muon":
            raise ValueError(
                "lora_rank needs optimizer=adamw: Muon is for whole matrices, not their factors"
            )
        return self


class DistillConfig(Section):
    """The student of few steps, made from the teacher by LADD or by another method."""

    method: Annotated[str, DeclaredIn("kontext.train.methods", "DISTILS")] = Field(
        "ladd", title="Method that makes the student"
    )
    teacher_edits: int = Field(1000, title="Edits made by the teacher to train on", ge=8)
    t2i_share: float = Field(
        0.0, title="Share of text-to-image among the teacher's edits", ge=0, le=1
    )
    teacher_steps: int = Field(4, title="Sampling steps of the teacher")
    guidance: float = Field(1.0, title="Guidance scale of the teacher's edits", ge=1)
    steps: int = Field(40, title="Training steps (0: no student is made)", ge=0)
    warmup_steps: int = Field(8, title="Warm-up: steps that train the cleaner noise levels alone")
    student_steps: int = Field(4, title="Sampling steps of the student", ge=1, le=8)
    batch: int = Field(32, title="Batch, in pairs", ge=2)
    accumulate: int = Field(1, title="Gradient accumulation: parts of a batch", ge=1)
    lr_student: float = Field(2e-5, title="Learning rate of the student")
    lr_heads: float = Field(2e-3, title="Learning rate of the discriminator heads")
    taps: tuple[int, ...] = Field((), title="Blocks with a discriminator head (empty: evenly)")
    renoise_mean: float = Field(1.0, title="Logit-normal noise level of the discriminator: mean")
    renoise_std: float = Field(
        1.0, title="Logit-normal noise level of the discriminator: standard deviation"
    )
    r1_weight: float = Field(0.1, title="Weight of the R1 penalty")
    r1_sigma: float = Field(0.1, title="Standard deviation of the noise that R1 is estimated with")
    negative_weight: float = Field(0.5, title="Weight of fakes with a wrong instruction", ge=0)
    negatives: tuple[Literal["instruction", "context", "copy"], ...] = Field(
        ("instruction", "context", "copy"),
        title="What is wrong with them: their instruction, their context, or they copy it",
        min_length=1,
    )
    adversarial_weight: float = Field(
        1.0, title="LADD: weight of the heads' judgement (0: no heads, the distance alone)", ge=0
    )
    anchor_weight: float = Field(1.0, title="Weight of the distance to the teacher's edit", ge=0)
    dmd_fake_updates: int = Field(
        5, title="DMD2: updates of the fake score per update of the student", ge=1
    )
    dmd_simulate: bool = Field(
        True, title="DMD2: train on the student's own earlier steps instead of noised edits"
    )
    lr_fake: float = Field(2e-5, title="DMD2: learning rate of the fake score")
    gan_weight: float = Field(
        5e-3, title="DMD2: weight of the heads' judgement (0: no heads)", ge=0
    )
    clip: float = Field(1.0, title="Largest gradient norm")
    heads_floor: float = Field(
        0.0, title="Discriminator accuracy below which heads take two steps (0: never)", ge=0, le=1
    )
    heads_ceiling: float = Field(
        1.0, title="Discriminator accuracy above which heads pause (1: never)", ge=0, le=1
    )
    ema_decay: float = Field(0.98, title="Decay of the exponential moving average, per step")
    same_arithmetic: bool = Field(True, title="Refuse another kernel or dtype than the teacher's")
    validate_every: int = Field(0, title="Steps between validations (0: at the end)", ge=0)
    parallel: ParallelConfig = Field(ParallelConfig(), title="Layout over ranks and memory")
    launch: LaunchConfig = Field(LaunchConfig(), title="Processes")
    guard: GuardConfig = Field(GuardConfig(), title="Bad steps")
    checkpoint_every: int = Field(50, title="Steps between checkpoints")
    seed: int = Field(0, title="Seed")
