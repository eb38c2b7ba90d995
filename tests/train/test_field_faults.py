"""Faults that users of other trainers reported: each is put in, and the tests named for it fail.

One row per thread, or group of threads, of the field's trackers in which training an editor went
wrong. `noticed_by` are the tests that hold the behaviour here; they run in their own files too.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _pytest.outcomes import Failed
from PIL import Image

from kontext.data import buckets as bucketing
from kontext.data import layouts
from kontext.data.encoded.pair_tensors import Batch, PairTensors, gather
from kontext.data.encoded.reuse import Reused
from kontext.edit import pairs, preview
from kontext.errors import KontextError
from kontext.models.lora import Lora
from kontext.parallel.world import World
from kontext.train.flow import velocity
from kontext.train.loop import checkpoint
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.methods import flow
from kontext.train.methods.flow import Drawn, FlowMethod
from kontext.train.plan import rehearsal
from tests.data import test_buckets
from tests.data.encoded import test_reuse
from tests.data.sources import test_found
from tests.edit import test_preview
from tests.models.files import test_lora_files
from tests.train import broken_runs, test_flow_options, test_references, test_resume
from tests.train.flow import test_timesteps, test_validation
from tests.train.loop import test_checkpoint, test_fit
from tests.train.methods import test_flow
from tests.train.plan import test_memory

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Fault:
    """What went wrong, how it is put in, and which tests notice."""

    what: str
    put_in: Callable[[Patch], None]
    noticed_by: tuple[Callable[..., None], ...]


def drawn(test: Any, **example: object) -> Callable[[], None]:
    """A test of drawn examples, on one of them."""
    return partial(test.hypothesis.inner_test, **example)


def bars(patch: Patch) -> None:
    def padded(self: bucketing.Fit, rgb: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(rgb)
        picture.thumbnail(self.size)
        made = Image.new("RGB", self.size)
        made.paste(picture)
        return np.asarray(made)

    patch.setattr(bucketing.Fit, "__call__", padded)


def one_square(patch: Patch) -> None:
    patch.setattr(bucketing, "nearest", lambda sizes, picture: (1024, 1024))


def stretched_context(patch: Patch) -> None:
    real = bucketing.Buckets.fit

    def fit(self: bucketing.Buckets, picture: Any, beside: Any = None) -> bucketing.Fit:
        found = real(self, picture)
        return found if beside is None else bucketing.whole(found.size)

    patch.setattr(bucketing.Buckets, "fit", fit)


def swapped_sides(patch: Patch) -> None:
    real = bucketing.Fit.__call__
    patch.setattr(
        bucketing.Fit, "__call__", lambda self, rgb: real(replace(self, size=self.size[::-1]), rgb)
    )


def first_context_for_all(patch: Patch) -> None:
    real = velocity.with_contexts

    def with_contexts(noisy: torch.Tensor, batch: Any) -> Any:
        return real(noisy, batch.select(torch.zeros(len(noisy), dtype=torch.int64)))

    patch.setattr(velocity, "with_contexts", with_contexts)


def only_the_first_shape(patch: Patch) -> None:
    real = PairTensors.by_shape
    patch.setattr(PairTensors, "by_shape", lambda self, rows: real(self, rows)[:1])


def no_words_alone(patch: Patch) -> None:
    patch.setattr(FlowMethod, "_edits_at", lambda self, index: self.config.batch)


def guidance_of_one(patch: Patch) -> None:
    real = FlowMethod._draw

    def draw(self: FlowMethod, rows: torch.Tensor, *draws: torch.Generator) -> Drawn:
        return replace(real(self, rows, *draws), guidance=torch.ones(len(rows)))

    patch.setattr(FlowMethod, "_draw", draw)


def half_of_the_activations(patch: Patch) -> None:
    real = rehearsal.Stage.peak_of

    def peak_of(stage: rehearsal.Stage, step: Callable[[], object]) -> rehearsal.Rehearsed:
        found = real(stage, step)
        return replace(found, peak=(found.state + found.peak) // 2)

    patch.setattr(rehearsal.Stage, "peak_of", peak_of)


def context_dropped(patch: Patch) -> None:
    real = velocity.with_contexts
    patch.setattr(
        velocity,
        "with_contexts",
        lambda noisy, batch: real(noisy, replace(batch, context=None, references=())),
    )


def second_path_ignored(patch: Patch) -> None:
    patch.setattr(layouts, "accounted", lambda path, rows: iter(rows))


def samples_of_one_picture(patch: Patch) -> None:
    patch.setattr(preview, "gather", lambda *args: replace(gather(*args), references=()))


def all_references_at_once(patch: Patch) -> None:
    real = velocity.sequence_ids

    def ids(*args: Any, **named: Any) -> torch.Tensor:
        found = real(*args, **named)
        found[:, 0].clamp_(max=1)
        return found

    patch.setattr(velocity, "sequence_ids", ids)


def other_shift_in_sampling(patch: Patch) -> None:
    real = pairs.schedule
    patch.setattr(pairs, "schedule", lambda steps, tokens, shift: real(steps, tokens, (0.5, 1.15)))


def mask_ignored(patch: Patch) -> None:
    patch.setattr(flow, "change_weights", lambda target, *_: torch.ones(len(target), 1, 1))


def all_of_the_targets_size(patch: Patch) -> None:
    real = Batch.contexts.fget  # type: ignore[attr-defined]

    def contexts(self: Batch) -> tuple[torch.Tensor, ...]:
        side = self.target.shape[2:]
        return tuple(torch.nn.functional.interpolate(z, side) for z in real(self))

    patch.setattr(Batch, "contexts", property(contexts))


def idle_adapters_taken(patch: Patch) -> None:
    patch.setattr(Lora, "require_effect", lambda self: self)


def cached_by_number(patch: Patch) -> None:
    real = Reused.__init__

    def by_place(self: Reused, entries: Any, earlier: Any, encode: Any) -> None:
        real(self, entries, earlier, encode)
        count = min(len(bank.keys) for bank in self._banks)
        self._bank[:count], self._row[:count] = 0, torch.arange(count)

    patch.setattr(Reused, "__init__", by_place)


def edits_without_context(patch: Patch) -> None:
    patch.setattr(flow, "gather", lambda data, rows, text, shown: gather(data, rows, text, False))


def moments_lost_on_resume(patch: Patch) -> None:
    real = checkpoint.set_weights

    def set_weights(state: Any, weights: Any) -> None:
        kept, state.optimizers = state.optimizers, {}
        real(state, weights)
        state.optimizers = kept

    patch.setattr(checkpoint, "set_weights", set_weights)


def warm_up_begun_anew(patch: Patch) -> None:
    real, first = FlowMethod.step, {}

    def step(self: FlowMethod, index: int) -> Any:
        begun = first.setdefault(id(self.state), index)
        rate = flow.rate_factor
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(
                flow, "rate_factor", lambda name, at, *rest: rate(name, at - begun, *rest)
            )
            return real(self, index)

    patch.setattr(FlowMethod, "step", step)


def data_a_step_ahead(patch: Patch) -> None:
    real = Checkpoints.restore

    def restore(self: Checkpoints, state: Any) -> bool:
        found = real(self, state)
        state.step += found
        return found

    patch.setattr(Checkpoints, "restore", restore)


def all_rows_on_every_rank(patch: Patch) -> None:
    patch.setattr(World, "parts", lambda self, count, parts: [range(count)])


def unfinished_taken(patch: Patch) -> None:
    patch.setattr(
        Checkpoints,
        "finished",
        lambda self: sorted({int(key[5:13]) for key in self._store.list("step-")}),
    )


def other_ranks_refused(patch: Patch) -> None:
    train = broken_runs.train_on_as_many_ranks_only
    patch.setattr(test_resume, "run", partial(broken_runs.run, train=train))


KONTEXT_SIZE = {"size": (1392, 752), "stretch": 1.0, "x": 0.5, "y": 0.5}
MARKED = {"width": 300, "height": 200, "scale": 0.5, "x": 0.5, "y": 0.5}
FAULTS = {
    "DiffSynth#1685": Fault(
        "edits of aligned pairs grow borders",
        bars,
        (test_buckets.test_no_border_appears, test_buckets.test_an_edit_of_nothing_is_nothing),
    ),
    "ai-toolkit#980": Fault(
        "pictures shift beyond 1024 squared",
        one_square,
        (drawn(test_buckets.test_a_marker_stays_in_its_place_in_all_of_kontexts_sizes,
               **KONTEXT_SIZE),),
    ),
    "Qwen-Image#160": Fault(
        "edits zoom: context and target are resized and cut apart",
        stretched_context,
        (drawn(test_buckets.test_a_marker_stays_where_it_is_in_context_and_target, **MARKED),
         test_buckets.test_an_edit_of_nothing_is_nothing),
    ),
    "ai-toolkit#707": Fault(
        "width and height of the context are swapped",
        swapped_sides,
        (drawn(test_buckets.test_width_and_height_are_never_swapped, width=1000, height=500),),
    ),
    "ai-toolkit#332, DiffSynth#674, DiffSynth#1527": Fault(
        "a batch of several edits gets one context",
        first_context_for_all,
        (partial(test_flow_options.test_an_accumulated_batch_is_the_batch, 20),),
    ),
    "ai-toolkit#480, #471, #472, #517": Fault(
        "pairs with no context, or several, do not train beside those with one",
        no_words_alone,
        (test_flow.test_phase_one_is_text_to_image_only_and_phase_two_has_both,),
    ),
    "ai-toolkit#480, several": Fault(
        "of a batch only pairs with as many pictures as the first train",
        only_the_first_shape,
        (test_references.test_a_step_takes_all_edits_apart_by_their_pictures,),
    ),
    "DiffSynth#714": Fault(
        "a model with an embedding is trained at another guidance than it is drawn with",
        guidance_of_one,
        (test_flow_options.test_a_model_with_an_embedding_is_told_guidance_from_the_range,),
    ),
    "DiffSynth#1062": Fault(
        "out of memory where it was said to fit",
        half_of_the_activations,
        (partial(test_memory.test_a_step_takes_what_its_rehearsal_says, "all weights"),),
    ),
    "DiffSynth#1112": Fault(
        "nobody can tell whether the reference is looked at",
        context_dropped,
        (test_validation.test_a_model_that_edits_owes_its_loss_to_the_context_and_a_fresh_one_nothing,),
    ),
    "musubi-tuner#612, #589": Fault(
        "a second control path is ignored in silence",
        second_path_ignored,
        (test_found.test_a_second_control_path_that_is_not_understood_is_said,),
    ),
    "musubi-tuner#699": Fault(
        "samples on the way show one reference only",
        samples_of_one_picture,
        (test_preview.test_prompts_are_drawn_with_none_one_and_several_pictures,),
    ),
    "qwen-image-finetune#21": Fault(
        "five references lie on each other in the positions",
        all_references_at_once,
        (test_references.test_five_references_have_places_of_their_own,
         test_references.test_references_follow_the_context_at_times_of_their_own),
    ),
    "qwen-image-finetune#60": Fault(
        "training and sampling shift times differently",
        other_shift_in_sampling,
        (test_timesteps.test_training_and_sampling_shift_by_the_models_own_mu,),
    ),
    "SimpleTuner#2510, sd-scripts#2083": Fault(
        "the mask of the loss has no effect",
        mask_ignored,
        (test_flow_options.test_the_masked_loss_is_the_formula_and_off_is_the_plain_one,),
    ),
    "SimpleTuner#1516": Fault(
        "a reference of another size is made the target's",
        all_of_the_targets_size,
        (test_references.test_pictures_of_other_sizes_keep_their_own_tokens_and_places,),
    ),
    "OneTrainer#1544, diffusers#9291": Fault(
        "an adapter that does nothing is applied in silence",
        idle_adapters_taken,
        (test_lora_files.test_adapters_that_change_nothing_are_refused,),
    ),
    "diffusers#14431": Fault(
        "cached latents are found by their number",
        cached_by_number,
        (test_reuse.test_known_rows_are_taken_and_the_others_made,),
    ),
    "diffusers#11819": Fault(
        "edits are trained as text to image",
        edits_without_context,
        (test_flow.test_the_loss_is_the_papers_formula,),
    ),
    "torchtitan#4088": Fault(
        "a resumed run is not the unbroken one",
        moments_lost_on_resume,
        (test_flow.test_resume_takes_exactly_the_steps_of_an_unbroken_run,),
    ),
    "torchtitan#1213": Fault(
        "the loss jumps after a resume: the rate warms up anew",
        warm_up_begun_anew,
        (test_flow.test_resume_takes_exactly_the_steps_of_an_unbroken_run,),
    ),
    "torchtitan#4686": Fault(
        "the model is of one step and the data of the next",
        data_a_step_ahead,
        (test_flow.test_resume_takes_exactly_the_steps_of_an_unbroken_run,
         test_fit.test_resume_is_bitwise_equal_to_an_unbroken_run),
    ),
    "torchtitan#4686, half a checkpoint": Fault(
        "a checkpoint that was never finished is taken",
        unfinished_taken,
        (test_checkpoint.test_without_its_manifest_a_checkpoint_was_never_finished,),
    ),
    "omini-kontext#19": Fault(
        "several references do not fit, because ranks do not share them",
        all_rows_on_every_rank,
        (test_references.test_ranks_share_the_parts_of_a_batch_with_up_to_five_references,),
    ),
    "torchtitan#816": Fault(
        "a run goes on with as many ranks only",
        other_ranks_refused,
        (partial(test_resume.test_a_run_goes_on_with_another_number_of_ranks, first=2, then=1),
         partial(test_resume.test_a_run_goes_on_with_another_number_of_ranks, first=1, then=2)),
    ),
}  # fmt: skip


def called(test: Callable[..., None], tmp_path: Path, patch: Patch) -> None:
    """A test with the fixtures that it asks for."""
    there = {"tmp_path": tmp_path, "monkeypatch": patch, "url": f"file://{tmp_path}/store"}
    asked = inspect.signature(test).parameters
    test(**{name: there[name] for name in asked if name in there})


@pytest.mark.parametrize("threads", FAULTS)
def test_its_tests_notice_a_fault_that_others_had(
    threads: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    fault = FAULTS[threads]
    fault.put_in(monkeypatch)
    for number, test in enumerate(fault.noticed_by):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises((AssertionError, Failed, KontextError)):
            called(test, folder, monkeypatch)


def test_tests_that_are_named_elsewhere_are_there() -> None:
    root = Path(__file__).parents[2]
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", (root / "tests/findings.md").read_text())
    assert len(named) > 30
    for file, name in named:
        assert f"def {name}(" in (root / file).read_text(), f"{file}::{name}"
