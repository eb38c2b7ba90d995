"""Editors whose fault is known are said to have it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.read import PairRow, PairSet
from kontext.data.sources.stable import stable_hash
from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.diagnosis.blame import Blame, blame
from kontext.evaluate.diagnosis.contamination import Hashed, copies, scan
from kontext.evaluate.diagnosis.context import context_use
from kontext.evaluate.diagnosis.diagnose import Diagnosis
from kontext.evaluate.diagnosis.finding import ALL, Ask, Finding, rows_of
from kontext.evaluate.diagnosis.relations import paraphrase, relations
from kontext.evaluate.false_editors import TrainingEdits, run_false_editors
from kontext.evaluate.pixels import Images, blurred
from kontext.safety.pdq import pdq_dihedral
from tests.evaluate.drawn import codec, drawn


@pytest.fixture(scope="module")
def bench() -> Bench:
    found = drawn()[0]
    items = tuple(replace(item, inverse="undo it", instruction=item.asked) for item in found.items)
    return replace(found, items=items)


def ignoring(contexts: Sequence[Images], texts: Sequence[str], ids: Sequence[str]) -> Images:
    """Draws what the instruction and the noise say, whatever the context."""
    made = []
    for context, text, own in zip(contexts, texts, ids, strict=True):
        draw = np.random.default_rng(stable_hash(text, own))
        made.append(draw.integers(0, 256, context.shape).astype(np.uint8))
    return np.stack(made)


def identity(contexts: Sequence[Images], texts: Sequence[str], ids: Sequence[str]) -> Images:
    return np.stack(list(contexts))


def brighter(contexts: Sequence[Images], texts: Sequence[str], ids: Sequence[str]) -> Images:
    """Adds what the instruction says: in any order it is the same."""
    add = [stable_hash("add", text) % 20 for text in texts]
    return np.stack([np.uint8(c // 2 + a) for c, a in zip(contexts, add, strict=True)])


def asked(ask: Ask, bench: Bench, rows: Sequence[int]) -> Images:
    items = [bench.items[row] for row in rows]
    contexts = [bench.context[row] for row in rows]
    return ask(contexts, [i.instruction for i in items], [i.pair_id for i in items])


def verdicts(found: Sequence[Finding]) -> dict[str, str]:
    return {one.check: one.verdict for one in found if one.category == ALL}


@pytest.mark.parametrize(("ask", "verdict"), [(ignoring, "ignored"), (identity, "used")])
def test_an_editor_that_ignores_its_context_is_said_to(
    bench: Bench, ask: Ask, verdict: str
) -> None:
    rows = rows_of(bench, 8)
    found, pictures = context_use(bench, rows, list(asked(ask, bench, rows)), ask)
    assert verdicts(found) == dict.fromkeys(("blank", "shuffled", "mirrored"), verdict)
    assert {one.category for one in found} == {ALL, *bench.categories}
    assert all(len(made) == len(rows) for made in pictures.values())
    assert all(one.measured.n == len(rows) for one in found if one.category == ALL)


def test_relations_hold_for_who_keeps_them_and_break_for_who_does_not(bench: Bench) -> None:
    rows = rows_of(bench, 8)

    def of(ask: Ask) -> dict[str, str]:
        made = list(asked(ask, bench, rows))
        found, pictures = relations(bench, rows, made, bench.context, bench.target, ask)
        assert set(pictures) == {"no-op", "inverse"}
        return verdicts(found)

    assert of(ignoring) == dict.fromkeys(("no-op", "inverse", "commuting"), "broken")
    assert {n: of(identity)[n] for n in ("no-op", "inverse")} == {
        "no-op": "holds",
        "inverse": "holds",
    }
    assert of(brighter)["commuting"] == "holds" and of(brighter)["no-op"] == "broken"
    same = paraphrase(bench, bench.target, bench.target, bench.context, bench.target)
    other = paraphrase(bench, bench.target, bench.context, bench.context, bench.target)
    assert (verdicts(same), verdicts(other)) == ({"paraphrase": "holds"}, {"paraphrase": "broken"})


def judged(bench: Bench, codec_target: Images, teacher: Images, student: Images) -> Blame:
    names = ("codec_target", "teacher", "student")
    outputs = dict(zip(names, (codec_target, teacher, student), strict=True))
    success = {
        name: (np.abs(made - bench.target.astype(float)).mean(axis=(1, 2, 3)) < 20).astype(float)
        for name, made in outputs.items()
    }
    return blame(bench, outputs, success)[0]


def test_each_stage_is_blamed_for_what_it_loses(bench: Bench) -> None:
    good, wrong = codec(bench.target), bench.target[::-1]
    soft = np.uint8(blurred(bench.target, 6.0))
    noise = np.random.default_rng(0).integers(-3, 4, soft.shape)
    near = np.uint8(np.clip(soft + noise, 0, 255))
    found = {
        "codec": judged(bench, soft, near, near.copy()),
        "flow": judged(bench, good, wrong, wrong.copy()),
        "distillation": judged(bench, good, good.copy(), wrong),
    }
    assert {name: each.verdict for name, each in found.items()} == {name: name for name in found}
    for each in found.values():
        assert sum(part.value for part in each.parts.values()) == pytest.approx(1.0)
    assert found["flow"].points["flow"].value < -0.5
    assert found["flow"].points["distillation"].value == 0.0
    half = np.where(np.arange(64)[:, None, None] < 32, wrong, good).astype(np.uint8)
    assert judged(bench, good, half, wrong).verdict == "undecided"  # each half of it


def test_guidance_is_blamed_where_it_is_what_spoils_the_edits(bench: Bench) -> None:
    rows, good = rows_of(bench, 8), codec(bench.target)
    wrong = bench.target[::-1]
    outputs = {"codec_target": good, "teacher": wrong, "student": wrong.copy()}
    assert blame(bench, outputs, {}, (rows, good[rows]))[0].verdict == "guidance"
    alone = {**outputs, "student": wrong}
    assert set(blame(bench, alone, {})[0].parts) == {"codec", "flow"}  # nothing was distilled


def test_an_editor_that_copies_training_targets_is_found(bench: Bench) -> None:
    training = drawn()[1]
    near = run_false_editors(bench, training)["nearest"]
    right = codec(bench.target)
    found, honest = (copies(bench, made, right, training) for made in (near, right))
    assert (found.verdict, honest.verdict) == ("memorises", "no sign of it")
    assert found.among == len(training.target) and found.made[0].measured.value > 0.9
    none = TrainingEdits(training.context[:0], training.target[:0], {})
    assert copies(bench, near, right, none).verdict == "not measured"


@pytest.mark.parametrize("share", [1.0, 0.97])
def test_copies_cannot_be_told_where_right_results_are_copies_too(
    bench: Bench, share: float
) -> None:
    """A target of the test stands in training, or the codec is so poor that all is near."""
    training = drawn()[1]
    right = codec(bench.target)
    kept = round(share * len(bench))
    leaked = TrainingEdits(
        np.concatenate([training.context, bench.context[:kept]]),
        np.concatenate([training.target, right[:kept]]),
        training.rows,
    )
    for made in (right, bench.context):  # whatever the editor gives
        found = copies(bench, made, right, leaked)
        assert found.right.value >= kept / len(bench)
        told = f"{found.right.value:.0%} of the right results are copies too"
        assert found.verdict == f"cannot be told, {told}"
        line = Diagnosis([], copies=found).lines[-1]
        assert found.verdict in line and f"{found.made[0].measured.value:.0%} of the" in line
    some = replace(leaked, target=leaked.target[: len(training.target) + 1])
    assert copies(bench, right, right, some).verdict == "no sign of it"


def pair(number: int, instruction: str, context: int, target: int) -> PairRow:
    words = dict.fromkeys(PairRow.__dataclass_fields__, "")
    own = {"pair_id": f"{number:064x}", "instruction": instruction, "params": {}}
    return PairRow(**{**words, **own, "contexts": (context,), "target": target})  # type: ignore[arg-type]


def test_test_pairs_that_are_in_training_are_named(bench: Bench) -> None:
    leaked, half = 3, 30  # items: all of one pair, with noise; of another only its words
    noise = np.random.default_rng(0).integers(-2, 3, bench.target[0].shape)
    pictures = [
        np.uint8(np.clip(bench.context[leaked] + noise, 0, 255)),
        np.uint8(np.clip(bench.target[leaked] + noise, 0, 255)),
        *np.random.default_rng(1).integers(0, 256, (4, *noise.shape)).astype(np.uint8),
    ]
    order = sorted(range(len(pictures)), key=lambda i: pixel_id(pictures[i]))
    pngs = {pixel_id(pictures[i]): memoryview(encode_png(pictures[i])) for i in order}
    row = [order.index(i) for i in range(len(pictures))]
    own, other = bench.items[leaked].instruction, bench.items[half].instruction
    pairs = [pair(0, own.upper(), row[0], row[1]), pair(1, other, row[2], row[3])]
    pairs.append(pair(2, "something else altogether", row[4], row[5]))
    every = [*pictures, *bench.context, *bench.target]
    hashed = {pixel_id(p): pdq_dihedral(p) for p in every}
    table = pa.table(
        {
            "pixel_id": list(hashed),
            "pdq": [hashes[0].tobytes() for hashes, _ in hashed.values()],
            "pdq_quality": [quality for _, quality in hashed.values()],
        }
    )
    found = scan(bench, PairSet(pngs, pairs), Hashed.of(table))
    alike = {i.pair_id for i in bench.items if i.instruction in (own, other)}
    assert bench.items[leaked].pair_id in found.named["pair and words"]
    assert set(found.named["pair and words"]) <= set(found.named["pair"])
    assert bench.items[half].pair_id not in found.named["pair"]
    assert set(found.named["words"]) <= alike and len(alike) > 1
    assert found.trained == 3
    clean = scan(bench, PairSet(pngs, pairs[2:]), Hashed.of(table))
    assert not any(one.measured.value for one in clean.rates)
