"""Stage exclude: safety training, after which the flow does not make an excluded edit.

Figures:
    excluded_before: {%} of the excluded edits succeeded before
    excluded_after: {%} succeed in the words of the last attack
    excluded_fall: under that attack success fell by {%}
    excluded_unchanged: {%} of the attacked pictures come back as they were
    largest_cost: the category that lost most lost {%} of its score
    rounds: {} rounds of training
    phrasings_added: {} phrasings were found by attacks and trained on
    excluded_loss: loss {} of the excluded edits
    kept_loss: loss {} of all others
    steps_left_out: {} steps left out
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from kontext.data.encoded.latents import encode_texts, load_pairs
from kontext.data.encoded.pair_tensors import PairTensors
from kontext.data.shards.read import PairRow, load_split
from kontext.edit.preview import preview_edits
from kontext.edit.sizes import size_rule
from kontext.edit.weights.folder import ModelSettings
from kontext.engine.stage import Stage, StageContext
from kontext.evaluate.benches.held_out import Bench, asked
from kontext.evaluate.exclusion.attack import Editors, Subjects, Tried, attack
from kontext.evaluate.exclusion.matching import check, shows
from kontext.evaluate.exclusion.measure import cost_on_others, last_attack
from kontext.evaluate.exclusion.phrasings import LAST, ROUNDS, NearWords
from kontext.evaluate.exclusion.record import RECORD, largest_cost, lost, summary_line
from kontext.evaluate.exclusion.wordbook import Wordbook
from kontext.models.autoencoder.network import load_autoencoder
from kontext.models.flux.transformer import FluxTransformer, load_transformer
from kontext.models.precision import compute_dtype
from kontext.models.text.cache import later_text_encoder
from kontext.models.text.encoders import MiniLM
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.world import World
from kontext.train.loop.training import train
from kontext.train.methods import exclude
from kontext.train.methods.exclude import ASKED, Asked
from kontext.train.record.numerics import LEDGER, check_against
from kontext.train.record.outputs import device_for, save_weights, write_history, write_incidents
from kontext.train.record.reporting import report_progress
from kontext.train.record.transformer_ledger import pairs_ledger
from kontext.train.start.teacher import FLOW
from kontext.train.start.text import given_text
from schemas.sections.data import IngestConfig
from schemas.sections.evaluation import EvaluateConfig
from schemas.sections.exclusion import ExcludeConfig
from schemas.sections.training import EncodeConfig, FinetuneConfig

STAGE = Stage(
    name="exclude",
    section="exclude",
    inputs=("ingest", "shard", "train-autoencoder", "encode", "finetune"),
    when="concepts",
    weights=("text",),
    pool="gpu",
    model=True,
    summary="safety training: the flow leaves undone what is excluded",
)


def run(ctx: StageContext[ExcludeConfig]) -> None:
    """Train, attack and train again, then attack with words that no round has seen, and measure.

    Raises:
        RecipeError: a concept that the training split does not have, or that is all of it.
        ArtifactError: the val or test split has no edit of the concepts, or no other.
        NumericsError: finetune's flow was trained with other numerics than this stage has.
        DivergedError: losses that are not finite, and the recipe says to stop.
    """
    keep_freed_memory()
    work = Rounds.of(ctx)
    check_against(ctx, "exclude", work.ledger, "finetune")
    flow = load_transformer(ctx.inputs["finetune"], FLOW, work.device)
    rounds: list[dict[str, Any]] = []
    for number in range(ctx.config.rounds):
        found = work.attack(number, flow) if number else []
        if number and not found:
            ctx.log.info("no phrasing of attack %d succeeds: no more rounds", number)
            break
        rounds.append({"round": number, "added": [one._asdict() for one in found]})
        work.added += [one.text for one in found]
        work.train(number, flow)
    flow.requires_grad_(False).eval()
    save_weights(ctx, FLOW, flow.state_dict())
    ctx.output.add_json("config.json", {"shape": flow.shape.model_dump(mode="json")})
    ctx.output.add_json(LEDGER, work.ledger)
    _report(ctx, work, flow, rounds)


@dataclass
class Rounds:
    """What all rounds share, and the phrasings that they have found so far."""

    ctx: StageContext[ExcludeConfig]
    device: torch.device
    data: PairTensors
    book: Wordbook
    editors: Editors
    before: FluxTransformer  # as finetune left it
    added: list[str]
    ledger: dict[str, str]

    @classmethod
    def of(cls, ctx: StageContext[ExcludeConfig]) -> "Rounds":
        """Load what rounds need. Raises RecipeError: the training split has no such concept."""
        config, device = ctx.config, device_for(ctx)
        rows = _rows(ctx)
        for concept in config.concepts:
            check(concept, rows)
        spec = given_text(ctx)
        text = later_text_encoder(spec, device)
        length = ctx.upstream("encode", EncodeConfig).text_length
        ingested = ctx.upstream("ingest", IngestConfig)
        settings = ModelSettings(
            name="teacher",
            text_encoder=spec,
            text_digest=text.digest,
            text_length=length,
            resolution=ingested.resolution,
            sizes=size_rule(ingested),
            steps=config.sample_steps,
            guidance=config.guidance,
        )
        codec = load_autoencoder(ctx.inputs["train-autoencoder"], device)
        near = NearWords(text if isinstance(text, MiniLM) else MiniLM(device=device))
        book = Wordbook(rows, config.concepts, near, lambda one: text.count(one) <= length)
        data = load_pairs(ctx.inputs["encode"], "train", device)
        before = load_transformer(ctx.inputs["finetune"], FLOW, device)
        flow = ctx.upstream("finetune", FinetuneConfig)
        products = compute_dtype(flow.parallel.precision, device)
        ledger = pairs_ledger(ctx, before, data, products, device)
        editors = Editors(codec, text, settings, config.seed)
        return cls(ctx, device, data, book, editors, before, [], ledger)

    def train(self, number: int, flow: FluxTransformer) -> None:
        """One round of training, in place; the flow comes out with its averaged weights."""
        ctx = self.ctx
        path = ctx.scratch / f"asked-{number}.safetensors"
        self.asked(number).save(path)
        inputs = Inputs.of(ctx).using(flow, {ASKED: path})
        method = exclude.build(ctx.config, inputs, World(device=self.device))
        method.state.ledger = dict(self.ledger)
        name = f"round-{number}"
        history = train(
            ctx,
            exclude.build,
            method,
            inputs,
            progress=report_progress(ctx, f"exclude {name}"),
            stage="exclude",
            name=name,
        )
        write_history(ctx, history, name)
        write_incidents(ctx, method.state)
        for metric, value in method.summary(history[-20:]).items():
            ctx.output.metric(metric, value)
        method.state.ema["model"].copy_to(flow)

    def asked(self, number: int) -> Asked:
        """What a round trains on: texts for what is excluded, then other words for the rest."""
        book, texts = self.book, [*self.book.own, *self.added]
        kinds = {kind: group for group, kind in enumerate(book.kept)}
        found, others = self.encoded(texts), self.other_words
        left_out = [
            place
            for place, row in enumerate(book.rows)
            if book.excluded(row) or any(shows(concept, row) for concept in book.concepts)
        ]
        relations = {row.relation for row in book.rows if book.excluded(row)}
        related = [p for p, r in enumerate(book.rows) if r.contexts and r.relation in relations]
        return Asked(
            tokens=torch.cat((found["tokens"], others["tokens"])),
            pooled=torch.cat((found["pooled"], others["pooled"])),
            excluded=torch.tensor(left_out, dtype=torch.int64),
            asks=len(texts),
            related=torch.tensor(related, dtype=torch.int64),
            groups=torch.tensor([kinds.get(asked(row), -1) for row in book.rows]),
            said=torch.tensor(
                [kinds[kind] for kind, said in book.kept.items() for _ in said], dtype=torch.int64
            ),
            first=number * self.ctx.config.steps,
        )

    def encoded(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """States of texts, as encode has them."""
        return encode_texts(self.editors.text, texts, self.editors.settings.text_length)

    @cached_property
    def other_words(self) -> dict[str, torch.Tensor]:
        """States of all that says in other words what kept edits ask for."""
        return self.encoded([text for said in self.book.kept.values() for text in said])

    def attack(self, number: int, flow: FluxTransformer) -> list[Tried]:
        """Phrasings with which the flow still makes an excluded edit of held-out subjects."""
        path = self.ctx.scratch / f"attack-{number}.json"
        if not path.exists():  # a round that was interrupted does not search again
            texts = self.book.attacks(ROUNDS, self.ctx.config.attacks, number)
            new = [text for text in texts if text not in self.added]
            tried = attack(self.searched, self.editors.of(flow), new)
            path.write_text(json.dumps([one for one in tried if one.success]))
        return [Tried(*one) for one in json.loads(path.read_text())]

    @cached_property
    def searched(self) -> Subjects:
        """Subjects of the val split that phrasings are looked for with."""
        return self.subjects("val", self.book.excluded, self.ctx.config.subjects)

    def subjects(self, split: str, wanted: Callable[[PairRow], bool], count: int) -> Subjects:
        """Held-out edits, so many per category. Raises ArtifactError: there are none."""
        config = EvaluateConfig.model_construct(items_per_category=count, seed=self.ctx.config.seed)
        bench = Bench.from_shards(self.ctx.inputs["shard"], config, split, wanted)
        return Subjects.of(bench, self.editors.of(self.before))


def _rows(ctx: StageContext[ExcludeConfig]) -> list[PairRow]:
    """Pairs of the training split in the order of encode's."""
    by_id = {row.pair_id: row for row in load_split(ctx.inputs["shard"], "train").rows}
    table = ctx.inputs["encode"].table("pairs.parquet").to_pylist()
    return [by_id[row["pair_id"]] for row in table if row["split"] == "train"]


def _report(
    ctx: StageContext[ExcludeConfig],
    work: Rounds,
    flow: FluxTransformer,
    rounds: Sequence[Mapping[str, Any]],
) -> None:
    """Attack in words that no round has seen, measure what others have lost, and show both."""
    config, book = ctx.config, work.book
    before, after = work.editors.of(work.before), work.editors.of(flow)
    texts = book.attacks(LAST, config.attacks, config.seed)
    subjects = work.subjects("test", book.excluded, config.items)
    found = last_attack(work.searched, subjects, before, after, texts, config.strongest)
    others = work.subjects("test", lambda row: not book.excluded(row), config.items)
    costs = cost_on_others(others, before, after)
    fall = lost(found["attacked_before"]["success"], found["attacked_after"]["success"])
    concepts = [concept.name for concept in config.concepts]
    result = {"concepts": concepts, "rounds": rounds, **found, "fall": fall, "others": costs}
    ctx.output.add_json(RECORD, result)
    for metric, value in {
        "excluded_before": found["attacked_before"]["success"],
        "excluded_after": found["attacked_after"]["success"],
        "excluded_fall": fall,
        "excluded_unchanged": found["attacked_after"]["unchanged"],
        "largest_cost": largest_cost(costs),
    }.items():
        ctx.output.metric(metric, round(value, 4))
    ctx.output.metric("rounds", len(rounds))
    ctx.output.metric("phrasings_added", len(work.added))
    held_out = load_pairs(ctx.inputs["encode"], "val", work.device)
    sheet = preview_edits(
        ctx.inputs["train-autoencoder"], flow, held_out, steps=config.sample_steps
    )
    ctx.output.add_bytes("samples.png", sheet)
    ctx.report.image("exclude-samples", sheet, "validation pairs: context | edit | target")
    ctx.report.table("exclude-others", costs)
    ctx.report.table("exclude-attack", found["texts"])
    ctx.report.markdown("exclude-summary", summary_line(result))
