"""Model card and dataset card, written from measured numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kontext.evaluate.references import EDITORS
from schemas.tables import CATEGORIES, RELATION_CLASSES

_SHARE_ALIKE = "SA"


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
    resolution: int
    student_steps: int
    teacher_steps: int
    text_encoder: str
    recipe: str
    canaries: int
    hash_lists: int


def percent(value: float | None) -> str:
    """A rate (0-1) as percent; None as "not measured"."""
    return "–" if value is None else f"{100 * value:.0f} %"


def number(value: float | None, unit: str) -> str:
    """A number in a goal's unit."""
    if value is None:
        return "–"
    return percent(value) if unit == "%" else f"{value:.2f}{'' if unit == '×' else ' '}{unit}"


def model_card(
    model: ModelFacts,
    data: DataFacts,
    scores: Mapping[str, Any],
    latency: Mapping[str, Any],
    artifacts: Mapping[str, str],
) -> str:
    """README.md of the model folder. `scores` and `latency` are evaluate's JSON files."""
    return "\n".join(
        [
            "---\nlicense: apache-2.0\npipeline_tag: image-to-image\n"
            "tags: [image-editing, rectified-flow, kontext]\n---\n",
            f"# {model.name}\n",
            f"A small FLUX.1-Kontext-style image editor, trained from scratch by the recipe "
            f"`{model.recipe}`: {model.parameters / 1e6:.1f} M parameters, "
            f"{model.resolution} × {model.resolution} px, {model.student_steps} steps, with an "
            f"f8 × 16-channel autoencoder of {model.codec_parameters / 1e6:.1f} M. "
            "It takes an image and an instruction and gives the edited image.\n",
            _usage(model),
            _results(scores, latency),
            _limits(model, scores),
            _training_data(data),
            _safety(model),
            _licence(data),
            "## Lineage\n\n| artifact | digest |\n|---|---|\n"
            + "\n".join(f"| {stage} | `{digest}` |" for stage, digest in artifacts.items())
            + f"\n\nModel digest: `{model.digest}`. `lineage.json` and `lineage.mmd` lie beside "
            "this folder.\n",
        ]
    )


def _usage(model: ModelFacts) -> str:
    return f"""## Use

```
kontext edit photo.png "change the skin tone to dark" -o out.png --weights model@{model.name}
```

`transformer.safetensors` and `autoencoder.safetensors` carry Black Forest Labs' parameter names; \
`config.json` holds the shapes, the measured latent scale and shift, and the text encoder \
(`{model.text_encoder}`). The student needs no guidance. The teacher it was distilled from \
({model.teacher_steps} steps) lies in `teacher/`.
"""


def _results(scores: Mapping[str, Any], latency: Mapping[str, Any]) -> str:
    rows = []
    for goal in scores["goals"]:
        value = number(goal["value"], goal["unit"])
        interval = f"{number(goal['low'], goal['unit'])} to {number(goal['high'], goal['unit'])}"
        rows.append(
            f"| {goal['title']} | {value} | {interval if goal['n'] else '–'} | {goal['n']} "
            f"| {goal['sense']} {number(goal['goal'], goal['unit'])} "
            f"| {'reached' if goal['reached'] else 'not reached'} |"
        )
    categories = [name for name in CATEGORIES if name in scores["categories"]]
    editors = [
        f"| {scores['editors'][name]['title']} | "
        + " | ".join(percent(row[c]["success"]["value"]) for c in categories)
        + " |"
        for name, row in ((name, scores["scores"][name]) for name in EDITORS)
    ]
    return "\n".join(
        [
            "## Results on held-out concepts\n",
            "| goal | student | 95 % interval | n | wanted | |\n|---|---|---|---|---|---|",
            *rows,
            "\nAn edit succeeds when its mean absolute error to the target over the pixels that "
            "should change is below 0.7 × the context's and its EfficientNet-Lite0 features lie "
            "nearer to the target's than the context's do. Success of every editor scored:\n",
            f"| editor | {' | '.join(categories)} |\n|---|{'---|' * len(categories)}",
            *editors,
            f"\nOne edit takes {latency['student_ms']:.0f} ms (teacher "
            f"{latency['teacher_ms']:.0f} ms), warm, batch 1, on {latency['device']}.\n",
        ]
    )


def _limits(model: ModelFacts, scores: Mapping[str, Any]) -> str:
    missed = [goal["title"] for goal in scores["goals"] if not goal["reached"]]
    small = [name for name, row in scores["categories"].items() if row["n"] < 30]
    lines = [
        f"* It knows icons, drawn characters and painted signs at {model.resolution} px. "
        "Photographs are outside its training data; expect little from them.",
        "* It follows instructions of the kinds it was trained on, in English. Anything else gives "
        "an arbitrary edit.",
        "* What the autoencoder loses, no edit can bring back.",
    ]
    if missed:
        lines.append(f"* Goals not reached: {', '.join(missed)}.")
    if small:
        lines.append(f"* Fewer than 30 held-out items in: {', '.join(small)}. Read the intervals.")
    return "## Limits\n\n" + "\n".join(lines) + "\n"


def _training_data(data: DataFacts) -> str:
    train = sum(n for (_, split), n in data.pairs.items() if split == "train")
    return (
        "## Training data\n\n"
        f"Dataset `{data.dataset}` version {data.version}: {train:,} training pairs mined from "
        "drawn art, split by connected component, so no held-out concept, character or scene was "
        "seen in training. See `dataset_card.md`.\n"
    )


def _safety(model: ModelFacts) -> str:
    lists = (
        f"{model.hash_lists} external hash list(s) were in force."
        if model.hash_lists
        else "No external hash list was configured, so the gate knew only its canaries: whoever "
        "trains on images from outside must bring lists."
    )
    return (
        "## Safety\n\n"
        "Every image passed a perceptual and cryptographic hash gate before anything was written, "
        "then image classifiers; every pair passed text rules and a pair rule against making "
        f"people less clothed. {model.canaries} benign canaries were injected, and each had to be "
        f"stopped for the run to go on. {lists} Recall was not measured. `kontext edit` applies "
        "the same rules to what it is given.\n"
    )


def _licence(data: DataFacts) -> str:
    listed = ", ".join(f"{name} ({n:,} pairs)" for name, n in data.licences.most_common())
    lines = [
        "## Licence\n",
        "The weights are offered under Apache-2.0. The art they were trained on has its own "
        f"licences: {listed}. Authors and sources are in `ATTRIBUTION.md`.",
    ]
    if any(_SHARE_ALIKE in name.split("-") for name in data.licences):
        lines.append(
            "\nPart of that art is share-alike (CC-BY-SA). Whether weights are an adaptation of it "
            "is not settled; if that matters to you, train without the OpenMoji set."
        )
    lines.append(
        "\nNudeNet, one of the screening classifiers, is AGPL-3.0 by its licence files. It scored "
        "images; no part of it is in these weights, and a policy without it exists.\n"
    )
    return "\n".join(lines)


def dataset_card(data: DataFacts, counts: Mapping[str, int], notes: Sequence[str]) -> str:
    """dataset_card.md. `counts` are catalog rows per table; `notes` what the stages recorded."""
    classes = [name for name in RELATION_CLASSES if any(key[0] == name for key in data.pairs)]
    rows = [
        f"| {name} | "
        + " | ".join(f"{data.pairs[name, s]:,}" for s in ("train", "val", "test"))
        + " |"
        for name in classes
    ]
    noted = [f"* {note}" for note in notes] or ["* none"]
    return "\n".join(
        [
            f"# Dataset {data.dataset}, version {data.version}\n",
            f"{sum(data.pairs.values()):,} directed pairs (context, instruction, target) in "
            f"{data.shards} WebDataset shards, {data.bytes / 1e6:.1f} MB; DuckLake snapshot "
            f"{data.snapshot}. Images are real drawn art, rendered; no model generated any.\n",
            "## Pairs\n\n| relation class | train | val | test |\n|---|---|---|---|",
            *rows,
            f"\nSplits go by connected component ({data.components:,} of them) over shared images, "
            "groups and near-duplicates: never by pair.\n",
            "## Sources (pairs, by the target's source)\n\n| source | pairs |\n|---|---|",
            *[f"| {name} | {n:,} |" for name, n in data.sources.most_common()],
            "\n## Licences (the strictest of a pair)\n\n| licence | pairs |\n|---|---|",
            *[f"| {name} | {n:,} |" for name, n in data.licences.most_common()],
            "\nAuthors and sources are in `ATTRIBUTION.md`; every record carries its own.\n",
            "## How it was made\n\nInstructions, inverse instructions and captions were written "
            "from exact attributes of the art (what a file is, which part was swapped), not by "
            "looking at pictures. Safety and quality scores are stored raw; which pairs are "
            "accepted is decided by SQL views over a versioned policy.\n",
            "## Safety\n\nHash gate before anything is written, with canaries that had to be "
            "stopped; image classifiers, text rules and a pair rule after it; decisions in a "
            "hash-chained ledger. Nothing here shows that a classifier's recall is sufficient for "
            "other data.\n",
            "## Rows in the catalog\n\n| table | rows |\n|---|---|",
            *[f"| {name} | {n:,} |" for name, n in sorted(counts.items())],
            "\n## Notes the stages recorded\n",
            *noted,
            "",
        ]
    )
