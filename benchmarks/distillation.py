"""Ways to distil, side by side: the same teacher, data and operations; a table and plots.

    kontext run --direct --recipe ladd-lab --until finetune
    python -m benchmarks.distillation --home HOME [--seeds 3] [--noises 2] [--items 60]
        [--texts 200] [--recipe ladd-lab] [--set distill.steps=80] [--teacher DIGEST] [--out FOLDER]

Students are made by stage distill itself, gates included, from the newest teacher that the recipe
has in the home's store. Each is an artifact there: a run that was ended goes on where it was. The
recipe's `distill.steps` is the number of steps of LADD; every other student takes as many steps as
come to the same operations (`step_flops`). Students of one seed have the same teacher edits.

Every row is drawn as `kontext edit` draws, on the test split: a student in 1, 2 and 4 steps, the
teacher in 1 to 20, guided as its edits were. Edits say whether the right thing is done; pictures
drawn from words, of which many are right, how near the whole distribution is: to all held-out
pictures, in EfficientNet-Lite0 features. What a figure varies by is over the students' seeds, and
for the teacher over draws of noise.
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.distillation_table import EVERY, FIGURES, STUDENTS, Figures, Row, plots, table
from benchmarks.timing import device_name
from kontext.data.encoded.latents import load_pairs
from kontext.data.shards.read import load_split
from kontext.edit.edit_model import EditModel
from kontext.edit.weights.folder import LoadedModel, ModelSettings
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter, section_of
from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.metrics import METRICS, Scoring
from kontext.evaluate.metrics.distribution import (
    Features,
    diversity,
    kid,
    precision_recall,
    saturation,
)
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.pixels import Images, as_images
from kontext.evaluate.scoring import pooled_features
from kontext.models.autoencoder.network import load_autoencoder
from kontext.models.features.efficientnet import FeatureNet, load_features
from kontext.models.flux.transformer import load_transformer
from kontext.models.text.encoders import load_text_encoder
from kontext.parallel.flops import Tokens
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.methods import distillation
from schemas.recipes import Recipe, load_recipe
from schemas.sections.data import IngestConfig
from schemas.sections.evaluation import EvaluateConfig
from schemas.sections.models import TransformerShape
from schemas.sections.training import DistillConfig, EncodeConfig, FinetuneConfig

TEACHER_STEPS, STUDENT_STEPS = (1, 2, 4, 8, 20), (1, 2, 4)
Flags = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Words:
    """Held-out pictures, and the texts of those that are drawn from words alone."""

    texts: Sequence[str]
    ids: Sequence[str]
    features: Features  # of all the pictures
    colours: float  # their mean saturation

    @classmethod
    def of(cls, shards: Artifact, count: int, net: FeatureNet, device: torch.device) -> "Words":
        """The test split's text-to-image pairs; the first `count` are drawn.

        Raises:
            SystemExit: it has none.
        """
        pairs = load_split(shards, "test")
        rows = pairs.of_class("t2i")
        if not rows:
            raise SystemExit("the test split has no text-to-image pair: nothing to draw from words")
        real = as_images(pairs.pictures([row.target for row in rows]))
        colours, drawn = float(saturation(real).mean()), rows[:count]
        features = pooled_features(net, real, device)
        return cls([r.instruction for r in drawn], [r.pair_id for r in drawn], features, colours)

    def measured(self, made: Images, seen: Features) -> Figures:
        """Figures of one draw of all texts."""
        precision, recall = precision_recall(self.features, seen)
        return {
            "KID ↓": kid(self.features, seen),
            "precision ↑": precision,
            "recall ↑": recall,
            "saturation ± 0": float(saturation(made).mean()) - self.colours,
        }


@dataclass(frozen=True)
class Lab:
    """What all rows share: the held-out items, and what pictures are made and seen with."""

    bench: Bench
    codec: Images  # round trips of contexts and of targets
    codec_target: Images
    words: Words
    features: FeatureNet
    context_features: Features
    target_features: Features

    @classmethod
    def of(cls, bench: Bench, shards: Artifact, drawn: int, editor: EditModel) -> "Lab":
        """Round trips and features of a bench, and `drawn` texts, with an editor's autoencoder."""
        net = load_features(device=editor.device)
        trip = TrainedModels(editor, editor, 0).round_trip
        seen = [pooled_features(net, images, editor.device) for images in _sides(bench)]
        words = Words.of(shards, drawn, net, editor.device)
        return cls(bench, trip(bench.context), trip(bench.target), words, net, *seen)

    def scoring(self, made: Images, seen: Any) -> Scoring:
        """One draw of all items, ready to be measured."""
        return Scoring(
            bench=self.bench,
            output=made,
            codec=self.codec,
            codec_target=self.codec_target,
            context_features=self.context_features,
            target_features=self.target_features,
            output_features=seen,
        )


def _sides(bench: Bench) -> tuple[Images, Images]:
    return bench.context, bench.target


def equal_steps(
    recipe: Recipe, shape: TransformerShape, tokens: Tokens, changes: Mapping[str, Any]
) -> int:
    """Steps of a student that take as many operations as the recipe's steps of LADD do."""

    def cost(own: Mapping[str, Any]) -> int:
        config = student_section(recipe, own)
        found: int = distillation(config).step_flops(config, shape, tokens)
        return found

    return max(1, round(recipe.distill.steps * cost(STUDENTS["LADD"]) / cost(changes)))


def student_section(recipe: Recipe, changes: Mapping[str, Any]) -> DistillConfig:
    """The recipe's section with a student's own settings."""
    return DistillConfig.model_validate({**recipe.distill.model_dump(), **changes})


def pinned_inputs(engine: Engine, recipe: Recipe, teacher: str) -> dict[str, str]:
    """Stage -> digest of a teacher and all that it was made from; the newest where none is named.

    Raises:
        SystemExit: the store has no teacher of the recipe.
    """
    made = [m for m in engine.artifacts.list("finetune") if m.recipe == recipe.name]
    if not teacher and not made:
        raise SystemExit(f"no teacher of recipe {recipe.name} in {engine.objects.url}")
    found, coming = dict[str, str](), [("finetune", teacher or made[-1].digest)]
    while coming:
        stage, digest = coming.pop()
        found[stage] = digest
        coming += engine.artifacts.open(stage, digest).manifest.inputs.items()
    return found


class Students:
    """Makes students of one teacher, or finds those that a run before has made."""

    def __init__(self, recipe: Recipe, home: Path, teacher: str) -> None:
        self.recipe, self.home, self.url = recipe, home, f"file://{home.resolve()}/store"
        self.pins = pinned_inputs(self._engine(recipe), recipe, teacher)
        self.store = self._engine(recipe).artifacts
        trained = section_of(self.input("finetune").manifest, FinetuneConfig)
        device = torch.device("cpu")
        self.shape = trained.shape
        self.tokens = load_pairs(self.input("encode"), "train", device).edit_tokens

    def _engine(self, recipe: Recipe, pins: Mapping[str, str] | None = None) -> Engine:
        return Engine(recipe, self.url, "", self.home, stages=STAGES, pins=pins)

    def input(self, stage: str) -> Artifact:
        """An artifact that the teacher is, or was made from."""
        return self.store.open(stage, self.pins[stage])

    def make(self, name: str, changes: Mapping[str, Any], seed: int) -> Artifact:
        """One student, by stage distill."""
        steps = equal_steps(self.recipe, self.shape, self.tokens, changes)
        share = self.recipe.distill.warmup_steps / self.recipe.distill.steps
        own = {**changes, "steps": steps, "warmup_steps": round(share * steps), "seed": seed}
        section = student_section(self.recipe, own)
        recipe = self.recipe.model_copy(update={"distill": section})
        print(f"{name}, seed {seed}: {steps} steps", flush=True)
        engine = self._engine(recipe, self.pins)
        made = engine.run_stage("distill", Reporter(logging.getLogger("benchmarks")))
        return self.store.open("distill", made.digest)


def editor_of(students: Students, model: Artifact, file: str, guidance: float) -> EditModel:
    """The editor that `kontext edit` has of a teacher or student."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = load_text_encoder(device=device)
    settings = ModelSettings(
        name=file,
        text_digest=text.digest,
        text_length=section_of(students.input("encode").manifest, EncodeConfig).text_length,
        resolution=section_of(students.input("ingest").manifest, IngestConfig).resolution,
        guidance=guidance,
    )
    codec = load_autoencoder(students.input("train-autoencoder"), device)
    loaded = LoadedModel(load_transformer(model, file, device), codec, settings, model.digest)
    return EditModel(loaded, text, device)


def edited(lab: Lab, editor: EditModel, steps: int, noise: int) -> tuple[Figures, Flags]:
    """Edit all items in so many steps: figures, and which items chose right [N]."""
    items = lab.bench.items
    contexts = [[image] for image in lab.bench.context]
    texts, ids = [item.instruction for item in items], [item.pair_id for item in items]
    made = TrainedModels(editor, editor, noise).edit(editor, contexts, texts, ids, steps=steps)
    seen = pooled_features(lab.features, made, editor.device)
    scoring = lab.scoring(made, seen)
    right = METRICS["right_choice"].measure(scoring)
    outside = METRICS["outside_ratio"].measure(scoring)
    assert right is not None and outside is not None
    kept = np.isfinite(outside.top)
    figures = {
        "edits: right choice ↑": float(right.top.mean()),
        "edits: change outside ↓": float(outside.top[kept].sum() / outside.bottom[kept].sum()),
        "edits: KID ↓": kid(lab.target_features, seen),
    }
    return figures, right.top


def drawn(lab: Lab, editor: EditModel, steps: int, noise: int) -> tuple[Figures, Features]:
    """Draw all texts in so many steps: figures, and features [T, D]."""
    words, none = lab.words, [list[Images]() for _ in lab.words.texts]
    side = editor.settings.resolution
    made = TrainedModels(editor, editor, noise).edit(
        editor, none, words.texts, words.ids, (side, side), steps
    )
    seen = pooled_features(lab.features, made, editor.device)
    return words.measured(made, seen), seen


def add_draws(row: Row, lab: Lab, editor: EditModel, noises: Sequence[int], apart: bool) -> None:
    """Draw a row's pictures and add their figures.

    Args:
        apart: whether each draw of noise counts as a seed; else their mean is one seed's.
    """
    edits = [edited(lab, editor, row.steps, noise) for noise in noises]
    pictures = [drawn(lab, editor, row.steps, noise) for noise in noises]
    varied = float(diversity(np.stack([seen for _, seen in pictures])).mean())
    each = [
        {**ours, **theirs, "diversity": varied}
        for (ours, _), (theirs, _) in zip(edits, pictures, strict=True)
    ]
    row.right += [right for _, right in edits]
    means = {name: float(np.mean([figures[name] for figures in each])) for name in FIGURES}
    row.seeds += each if apart else [means]


def compared(
    students: Students, config: EvaluateConfig, texts: int, seeds: int, noises: Sequence[int]
) -> tuple[Lab, list[Row], dict[str, list[list[dict[str, float]]]]]:
    """The rows of the table, and the students' histories by name and seed.

    Students that show what the heads learn from, and not a method, are made once.
    """
    guidance = students.recipe.distill.guidance
    teacher = editor_of(students, students.input("finetune"), "flow.safetensors", guidance)
    shards = students.input("shard")
    lab = Lab.of(Bench.from_shards(shards, config), shards, texts, teacher)
    a_step = 2 if guidance > 1 and not students.shape.guidance_embed else 1
    rows = [Row("teacher", steps, a_step * steps) for steps in TEACHER_STEPS]
    for row in rows:
        add_draws(row, lab, teacher, noises, apart=True)
    histories: dict[str, list[list[dict[str, float]]]] = {}
    for name, changes in EVERY.items():
        own = [Row(name, steps, steps) for steps in STUDENT_STEPS]
        for seed in range(seeds if name in STUDENTS else 1):
            made = students.make(name, changes, seed)
            histories.setdefault(name, []).append(made.table("history.parquet").to_pylist())
            editor = editor_of(students, made, "student.safetensors", 1.0)
            for row in own:
                add_draws(row, lab, editor, noises, apart=False)
        rows += own
    return lab, rows, histories


def write(folder: Path, students: Students, found: tuple[Lab, list[Row], Mapping[str, Any]]) -> str:
    """Table, rows and plots into a folder; returns the table with what it was made of."""
    lab, rows, histories = found
    folder.mkdir(parents=True, exist_ok=True)
    steps = ", ".join(
        f"{name} {equal_steps(students.recipe, students.shape, students.tokens, changes)}"
        for name, changes in EVERY.items()
    )
    refs = ", ".join(f"`{stage}/{students.pins[stage]}`" for stage in ("finetune", "encode"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = (
        f"{table(rows, lab.bench)}\n\n{len(lab.words.texts)} pictures from words against "
        f"{len(lab.words.features)} held-out ones, {len(lab.bench)} held-out edits, recipe "
        f"`{students.recipe.name}`, {refs}, on {device_name(device) or 'an unnamed device'}. "
        f"Steps of equal operations: {steps}. Mean ± standard deviation over the students' seeds "
        "(the teacher's: over draws of noise); the interval is for related items.\n"
    )
    (folder / "table.md").write_text(text)
    record = [{**vars(row), "right": [flags.tolist() for flags in row.right]} for row in rows]
    (folder / "rows.json").write_text(json.dumps(record, indent=1))
    plots(folder, histories)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Make the students, the table and the plots."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--home", type=Path, required=True, help="KONTEXT_HOME of the recipe's run")
    parser.add_argument("--recipe", default="ladd-lab")
    parser.add_argument("--set", action="append", default=[], help="distill.key=value")
    parser.add_argument("--teacher", default="", help="digest of the teacher (default: the newest)")
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind")
    parser.add_argument("--noises", type=int, default=2, help="draws of noise, two at least")
    parser.add_argument("--items", type=int, default=60, help="held-out edits per category")
    parser.add_argument("--texts", type=int, default=200, help="pictures drawn from words")
    parser.add_argument("--out", type=Path, default=Path("distillation"))
    args = parser.parse_args(argv)
    if args.noises < 2:
        parser.error("diversity is between draws of noise: --noises 2 at least")
    students = Students(load_recipe(args.recipe, args.set), args.home, args.teacher)
    config = EvaluateConfig(items_per_category=args.items)
    # noise of the bench's own seeds, which no training step draws from
    found = compared(students, config, args.texts, args.seeds, range(args.noises))
    print(write(args.out, students, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
