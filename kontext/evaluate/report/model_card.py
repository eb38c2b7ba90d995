"""Model card and dataset card: measured numbers in the templates `*_card.md`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from kontext.evaluate.categories import SCORED_CATEGORIES
from kontext.evaluate.references import EDITORS
from kontext.evaluate.report.builder import number, templates
from kontext.evaluate.statistics import SMALL_N
from schemas.tables import RELATION_CLASSES


@dataclass(frozen=True)
class DataFacts:
    """What the shards hold."""

    dataset: str
    version: int
    snapshot: int
    pairs: Counter[tuple[str, str]]  # (relation class, split) -> pairs
    licences: Counter[str]  # of pairs: the strictest of their images
    sources: Counter[str]  # of target images, per pair
    components: int
    shards: int
    bytes: int


@dataclass(frozen=True)
class ModelFacts:
    """What the weights are."""

    name: str
    digest: str
    parameters: int
    codec_parameters: int
    made_for: str  # sizes of pictures, in words
    student_steps: int
    teacher_steps: int
    text_encoder: str
    recipe: str
    canaries: int
    hash_lists: int
    distilled: bool = True  # else the model is what finetune or exclude made
    started_from: str = ""  # given weights; empty: trained from scratch
    exclusion: str = ""  # what safety training came to, where there was any
    versions: str = ""  # what it is beside the model that had the tag before


def model_card(
    model: ModelFacts,
    data: DataFacts,
    scores: Mapping[str, Any],
    latency: Mapping[str, Any],
    artifacts: Mapping[str, str],
) -> str:
    """README.md of the model folder. `scores` and `latency` are evaluate's JSON files."""
    return _filled(
        "model_card.md",
        model=model,
        data=data,
        scores=scores,
        latency=latency,
        artifacts=artifacts,
        editors=[name for name in EDITORS if name in scores["scores"]],
        categories=[name for name in SCORED_CATEGORIES if name in scores["categories"]],
        small=[name for name, row in scores["categories"].items() if row["n"] < SMALL_N],
        train=sum(n for (_, split), n in data.pairs.items() if split == "train"),
        share_alike=any("SA" in name.split("-") for name in data.licences),
    )


def dataset_card(data: DataFacts, counts: Mapping[str, int], notes: Sequence[str]) -> str:
    """dataset_card.md. `counts` are catalog rows per table; `notes` what the stages recorded."""
    classes = [name for name in RELATION_CLASSES if any(key[0] == name for key in data.pairs)]
    return _filled("dataset_card.md", data=data, counts=counts, notes=notes, classes=classes)


def _filled(name: str, **values: Any) -> str:
    pages = templates(percent=partial(number, unit="%"), number=number)
    return pages.get_template(name).render(values).rstrip("\n") + "\n"
