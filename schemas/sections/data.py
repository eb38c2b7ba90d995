"""Recipe sections of the data stages: image sources, mining, captions, screening, shards, index."""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from schemas.discovery import PluginOf
from schemas.own_names import NAME
from schemas.sections.base import Section
from schemas.sections.sources import Source
from schemas.sections.web import WebConfig

_SOURCES: Any = tuple({"kind": kind} for kind in ("emoji", "meteocons", "dicebear", "signs"))

_Miner = Annotated[str, PluginOf("kontext.data.mine", "mine")]
_Captioner = Annotated[str, PluginOf("kontext.data.caption", "captioner")]
_Side = Annotated[int, Field(ge=16, le=4096, multiple_of=16)]
_Classifier = Annotated[str, PluginOf("kontext.safety.classifiers", "load")]


class EditsConfig(Section):
    """Edits made of single pictures by known operations, with instructions that are true."""

    per_picture: int = Field(
        0, title="Edits made of every picture of one's own (0: none)", ge=0, le=100
    )
    operations: tuple[str, ...] = Field((), title="Operations (empty: all)")
    seed: int = Field(0, title="Seed of operations, parameters and sentences")


class IngestConfig(Section):
    """Which images are read, and how they are checked."""

    sources: tuple[Source, ...] = Field(_SOURCES, validate_default=True, title="Image sources")
    web: WebConfig = Field(WebConfig(), title="Fetching of addresses")
    npm_fallback: bool = Field(True, title="Use images from pip where npm's are missing (is noted)")
    edits: EditsConfig = Field(EditsConfig(), title="Programmatic edits of single pictures")
    resolution: int = Field(
        64, title="Side of an image in training, in pixels", ge=16, le=4096, multiple_of=16
    )
    sizes: (
        Literal["square", "kontext"]
        | Annotated[tuple[tuple[_Side, _Side], ...], Field(min_length=1)]
    ) = Field(
        "square",
        title="Sizes of images in training: the square, shapes of its area as FLUX.1 Kontext has "
        "them, or a list of [width, height] in pixels",
    )
    max_side: int = Field(2048, title="Longer side of a stored picture, at most, in pixels", ge=64)
    background: str = Field("#ffffff", title="Colour behind transparent pixels")
    hash_lists: tuple[str, ...] = Field((), title="Hash list files (never stored, never logged)")
    policy: str = Field(
        "default",
        title="Safety policy that pictures meet before they are kept: screen.policy",
    )
    allow_unlisted: bool = Field(True, title="Run without an external hash list (is noted)")
    canaries: int = Field(3, title="Harmless test images that the hash gate must stop", ge=1)
    chunk_size: int = Field(512, title="Images per work chunk", ge=1, le=4096)
    processes: int = Field(2, title="Worker processes", ge=1)


class MineConfig(Section):
    """Which pairs of images are proposed, and how many are kept."""

    miners: tuple[_Miner, ...] = Field(
        ("attributes", "bursts", "frames", "singles"), title="Miners"
    )
    pairs_per_category: int = Field(4000, title="Directed pairs kept per category, at most", ge=1)
    t2i_singles: int = Field(3000, title="Text-to-image pairs (no context) kept, at most", ge=0)
    skin_tone_share: float = Field(0.15, title="Skin tones among local edits, at most", gt=0, le=1)
    style_overlap_min: float = Field(0.82, title="Least silhouette IoU of style pairs", ge=0, le=1)
    frames_apart: int = Field(
        3, title="Frames, or photographs of a burst, from context to target, at most", ge=1
    )
    burst_seconds: float = Field(
        8, title="Time between two photographs of a burst, at most, in seconds", gt=0
    )
    moved_least: float = Field(
        0.01,
        title="Share of pixels in which two frames or photographs differ, at least",
        ge=0,
        le=1,
    )
    moved_most: float = Field(
        0.5, title="Share of pixels in which two frames or photographs differ, at most", gt=0, le=1
    )
    pairs_per_image: int = Field(
        24, title="Pairs per relation with one target image, at most", ge=1
    )
    seed: int = Field(0, title="Seed")


class CaptionConfig(Section):
    """Who writes the instructions, and who judges them."""

    captioner: _Captioner = Field("templates", title="Captioner")
    paraphrases: int = Field(40, title="Paraphrases used per relation, at most", ge=1)
    carrier_share: float = Field(
        0.4, title="Share of edits asked for within a carrier phrase ('okay, …')", ge=0, le=1
    )
    short_share: float = Field(
        0.0, title="Share of text-to-image captions that name the subject alone", ge=0, le=1
    )
    max_words: int = Field(14, title="Words of a text, at most (encode reads no more)", ge=4)
    judge: bool = Field(False, title="A model judges every edit")
    endpoint: str = Field("", title="OpenAI-compatible endpoint, with /v1")
    model: str = Field("", title="Model at the endpoint that writes captions")
    judge_model: str = Field("", title="Model at the endpoint that judges (empty: the same)")
    policy: str = Field(
        "default", title="Safety policy that pictures meet before a model is shown them"
    )
    parallel: int = Field(8, title="Parallel requests to the endpoint", ge=1, le=1024)
    answer_tokens: int = Field(500, title="Tokens of an answer, at most", ge=16)
    picture_tokens: int = Field(1000, title="Tokens a picture costs, at most (for budget)", ge=0)
    request: dict[str, JsonValue] = Field(
        {}, title="Further fields of a request (null takes one of ours away)"
    )
    budget_tokens: int = Field(0, title="Tokens that may be spent, both ways (0: no limit)", ge=0)
    budget_requests: int = Field(0, title="Requests that may be sent (0: no limit)", ge=0)
    usd_per_million_in: float = Field(0, title="Price of a million tokens asked, in USD", ge=0)
    usd_per_million_out: float = Field(0, title="Price of a million tokens answered, in USD", ge=0)
    tries: int = Field(6, title="Times a request is sent, at most, while the server fails", ge=1)
    first_wait: float = Field(1, title="Wait before it is sent again, in seconds; doubled", ge=0)
    longest_wait: float = Field(
        120, title="Longest such wait, also where the server asks for more, in seconds", ge=0
    )
    timeout: float = Field(120, title="Time that one request may take, in seconds", gt=0)
    seed: int = Field(0, title="Seed of the choice among paraphrases, of requests and of waits")


SAFETY = "safety"  # all filters of safety: every run shows each what it has to stop
# What drawn and paired sources are free of. Their pairs differ by what was drawn, and in a clean
# set all do; the recipe says so, for over 1,000 pairs a filter that never rejects is an error.
DRAWN = (SAFETY, "change_kept", "changed_frac", "clip_dir", "clip_t", "l1", "ssim")


class ScreenConfig(Section):
    """Safety and quality checks of pairs."""

    classifiers: tuple[_Classifier, ...] = Field(
        ("open-nsfw", "nudenet"), title="Image classifiers"
    )
    policy: str = Field("default", title="Safety policy: a name or a .yaml file")
    clip_steps: int = Field(200, title="Training steps of the small CLIP heads", ge=1)
    clip_batch: int = Field(512, title="Batch of the small CLIP heads, in pairs of image and text")
    clip_keep: float = Field(
        0.1,
        title="The small CLIP of the dataset's last version is kept where at most this share of "
        "its pictures is new or worded anew (0 to 1; 0: trained for every version)",
        ge=0,
        le=1,
    )
    may_pass_all: tuple[str, ...] = Field(
        (SAFETY, "change_kept", "clip_dir", "clip_t"),
        title="Filters that may let every pair pass (else an error over 1,000 pairs)",
    )
    may_drift: tuple[str, ...] = Field(
        (), title="Filters that may do otherwise than for the dataset's last version"
    )
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
