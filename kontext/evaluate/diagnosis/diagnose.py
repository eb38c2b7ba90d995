"""All checks of an evaluation, and what they say in a line each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from kontext.data.shards.read import PairSet
from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.diagnosis.blame import Blame, blame
from kontext.evaluate.diagnosis.contamination import Copies, Hashed, Scan, copies, scan
from kontext.evaluate.diagnosis.context import context_use
from kontext.evaluate.diagnosis.finding import ALL, UNKNOWN, Ask, Finding, rows_of
from kontext.evaluate.diagnosis.relations import paraphrase, relations
from kontext.evaluate.false_editors import TrainingEdits
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.pixels import Images, Picture, Values

_OWN = 1.0  # a guidance that is none


@dataclass(frozen=True)
class Diagnosis:
    """What is known beside the scores. `rows` are the items with edits of their own."""

    rows: list[int]
    context: list[Finding] = field(default_factory=list)
    relations: list[Finding] = field(default_factory=list)
    blame: list[Blame] = field(default_factory=list)
    scan: Scan | None = None
    copies: Copies | None = None
    # by item of `rows` and kind what the student made of it
    pictures: Mapping[str, Images] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """What every check says, in a line each."""
        said = [_context_line(self.context), *_relation_lines(self.relations)]
        said.append(_blame_line(self.blame))
        if self.scan is not None:
            said.append(_scan_line(self.scan))
        if self.copies is not None:
            rate = self.copies.made[0].measured
            said.append(
                f"copies of training targets: {self.copies.verdict} ({rate.value:.0%} of the "
                f"student's edits, {self.copies.right.value:.0%} of the right results)"
            )
        return [line for line in said if line]

    @property
    def verdicts(self) -> dict[str, str]:
        """context, blame and copies in a word or two each, as far as they are known."""
        found = {}
        if self.context:
            found["context"] = _context_verdict(self.context)
        if self.blame:
            found["blame"] = self.blame[0].verdict
        if self.copies is not None:
            found["copies"] = self.copies.verdict
        return found

    def as_dict(self, bench: Bench) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "lines": self.lines,
            "items": [bench.items[row].pair_id for row in self.rows],
            "context": [each.as_dict() for each in self.context],
            "relations": [each.as_dict() for each in self.relations],
            "blame": [each.as_dict() for each in self.blame],
            "contamination": None if self.scan is None else self.scan.as_dict(),
            "copies": None if self.copies is None else self.copies.as_dict(),
        }


def diagnose(
    bench: Bench,
    models: TrainedModels,
    *,
    outputs: Mapping[str, Images],
    success: Mapping[str, Values],
    training: TrainingEdits,
    train: PairSet,
    images: pa.Table | None,
    each: int,
) -> Diagnosis:
    """Run all checks.

    Args:
        outputs: of every editor, as the bench has them.
        success: by editor, 0 or 1 [N].
        images: ingest's table with PDQ hashes; None: pictures are not looked for in training.
        each: items per category that are edited anew for the checks that need it.
    """
    rows = rows_of(bench, each)
    found, pictures = list[Finding](), dict[str, Images]()
    related = paraphrase(
        bench,
        outputs["student"],
        outputs["student_reworded"],
        outputs["codec"],
        outputs["codec_target"],
    )
    if rows:
        made = [outputs["student"][row] for row in rows]
        found, pictures = context_use(bench, rows, made, _asking(models))
        codecs = outputs["codec"], outputs["codec_target"]
        more, others = relations(bench, rows, made, *codecs, _asking(models))
        related, pictures = [*more, *related], {**pictures, **others}
    return Diagnosis(
        rows,
        found,
        related,
        blame(bench, outputs, success, _unguided(bench, models, rows)),
        None if images is None else scan(bench, train, Hashed.of(images)),
        copies(bench, outputs["student"], outputs["codec_target"], training),
        pictures,
    )


def _asking(models: TrainedModels) -> Ask:
    def ask(contexts: Sequence[Picture], texts: Sequence[str], ids: Sequence[str]) -> Images:
        return models.edit(models.student, [[one] for one in contexts], texts, ids)

    return ask


def _unguided(
    bench: Bench, models: TrainedModels, rows: Sequence[int]
) -> tuple[Sequence[int], Images] | None:
    """The teacher's edits without guidance; None where it has none, or nothing is edited anew."""
    if models.teacher.settings.guidance == _OWN or not rows:
        return None
    items = [bench.items[row] for row in rows]
    contexts = [[bench.context[row]] for row in rows]
    texts, ids = [item.instruction for item in items], [item.pair_id for item in items]
    return rows, models.edit(models.teacher, contexts, texts, ids, guidance=_OWN)


def _context_verdict(found: Sequence[Finding]) -> str:
    how = {one.verdict for one in found if one.category == ALL} - {UNKNOWN}
    return "ignored" if "ignored" in how else "used" if how == {"used"} else "used in part"


def _context_line(found: Sequence[Finding]) -> str:
    own = [one for one in found if one.category == ALL and one.verdict != UNKNOWN]
    if not own:
        return ""
    said = ", ".join(f"{one.check} {one.measured.value:.0%} ({one.verdict})" for one in own)
    return (
        f"the context is {_context_verdict(found)}: of another context's difference this much "
        f"arrives in the result: "
        f"{said}; n = {own[0].measured.n}"
    )


def _relation_lines(found: Sequence[Finding]) -> list[str]:
    own = [one for one in found if one.category == ALL and one.verdict != UNKNOWN]
    said = ", ".join(
        f"{one.check} {one.verdict} ({one.measured.value:.2f} of the edits' own distance, "
        f"n = {one.measured.n})"
        for one in own
    )
    return [f"relations that need no target: {said}"] if said else []


def _blame_line(found: Sequence[Blame]) -> str:
    if not found:
        return ""
    shares = ", ".join(f"{name} {part.value:.0%}" for name, part in found[0].parts.items())
    blamed = found[0].verdict
    who = "no one stage alone" if blamed == "undecided" else blamed
    return f"most of the student's error is of: {who} ({shares})"


def _scan_line(found: Scan) -> str:
    own = {one.check: one.measured for one in found.rates if one.category == ALL}
    return (
        f"of {own['words'].n} test items, picture pairs nearly in training: "
        f"{own['pair'].value:.0%}, with the same words {own['pair and words'].value:.0%}; targets "
        f"{own['target'].value:.0%}, contexts {own['context'].value:.0%}, instructions word by "
        f"word {own['words'].value:.0%}"
    )
