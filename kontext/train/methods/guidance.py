"""Guidance distillation: one pass gives the guided velocity for a given strength (FLUX.1 [dev]).

Classifier-free guidance takes two passes a step. The student is the teacher with an embedding of
the guidance w added, and regresses the teacher's v_u + w (v_c - v_u) for w drawn from a range
(Meng et al., arXiv 2210.03142). FLUX.1 Kontext [dev] was made so, on image-to-image alone (arXiv
2506.15742, section 3); which condition v_u lacks is not published: here it is the instruction,
and the context stays, as for the sampler's text guidance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import Batch, PairTensors
from kontext.errors import RecipeError
from kontext.models.files.weights import Entry, bfl_entries, in_stored_dtypes, state_entries
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.shard import fill, shard
from kontext.parallel.world import World
from kontext.train.flow.edit_step import EditMethod, NoisedEdits
from kontext.train.flow.velocity import guided_velocity, velocity
from kontext.train.start.model import TEACHER
from schemas.sections.models import TransformerShape
from schemas.sections.training import FinetuneConfig

AFTER_FLOW = "guidance_distill"
IN_PLACE = False


def with_guidance(teacher: FluxTransformer, seed: int = 0) -> FluxTransformer:
    """A copy of `teacher` in float32 with an embedding that says nothing: see `embedding_start`.

    Its velocity is the teacher's at any strength. A teacher on the meta device gives the shapes.

    Raises:
        RecipeError: the teacher has one already.
    """
    if teacher.shape.guidance_embed:
        raise RecipeError("guidance distillation adds an embedding: shape.guidance_embed is on")
    with torch.device("meta"):
        student = FluxTransformer(teacher.shape.model_copy(update={"guidance_embed": True}))
    if teacher.img_in.weight.is_meta:
        return student
    state = {key: tensor.detach().float().clone() for key, tensor in teacher.state_dict().items()}
    student.load_state_dict({**state, **embedding_start(teacher.shape, seed)}, assign=True)
    return student.to(teacher.img_in.weight.device)


def embedding_start(shape: TransformerShape, seed: int) -> dict[str, Tensor]:
    """A fresh guidance embedding, by its names in the state dict: its last layer is zero."""
    width, draw = shape.hidden_size, torch.Generator().manual_seed(seed)
    return {
        "guidance_in.in_layer.weight": torch.randn(width, 256, generator=draw) * 0.02,
        "guidance_in.in_layer.bias": torch.zeros(width),
        "guidance_in.out_layer.weight": torch.zeros(width, width),
        "guidance_in.out_layer.bias": torch.zeros(width),
    }


def build(config: FinetuneConfig, inputs: Inputs, world: World) -> GuidanceMethod:
    """Guidance distillation on the pairs of encode's train split.

    The teacher is `inputs.model`; without it the one in the file `TEACHER`, of which ranks read
    their own rows.
    """
    from kontext.data.encoded.latents import load_pairs

    data = load_pairs(inputs["encode"], "train", world.device)
    teacher = inputs.model
    if teacher is not None:
        assert isinstance(teacher, FluxTransformer)
        return GuidanceMethod(config, data, teacher.to(world.device), world)
    with torch.device("meta"):
        teacher = FluxTransformer(config.shape)
    stored = bfl_entries(inputs.files[TEACHER], teacher)
    return GuidanceMethod(config, data, in_stored_dtypes(teacher, stored), world, stored)


class GuidanceMethod(EditMethod):
    """Regression of the student on the teacher's guided velocity, on edits only.

    Ranks hold teacher and student sharded. Other arguments are those of `EditMethod`.

    Args:
        teacher: trained with CFG dropout of the text; frozen here.
        stored: what is to be read into a teacher on the meta device, and into its student.

    Raises:
        RecipeError: the teacher has a guidance embedding, or was trained without text dropout;
            also as `EditMethod`.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        data: PairTensors,
        teacher: FluxTransformer,
        world: World | None = None,
        stored: Sequence[Entry] = (),
    ) -> None:
        if config.text_dropout + config.both_dropout <= 0:
            raise RecipeError("guidance distillation needs a teacher trained with text_dropout")
        shift = teacher.shape.timestep_shift
        super().__init__(config, config.guidance_distill, data, shift, world)
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = with_guidance(teacher, config.seed).requires_grad_(True).train()
        if not self.world.launches:
            fresh = state_entries(embedding_start(teacher.shape, config.seed))
            for model, start in ((self.teacher, stored), (self.student, [*stored, *fresh])):
                if self.world.size > 1:
                    shard(model, config.parallel, self.world, self.products)
                if stored:
                    fill(model, start, self.device)
        self.train_model(self.student)
        c = config.guidance_distill
        self.numerics = {
            "guidance: mode": "embedded",
            "guidance: distilled": f"{c.low:g} to {c.high:g}",
        }

    def losses(self, part: NoisedEdits) -> dict[str, Tensor]:
        """`loss`, and `unguided`: the loss of a student that would ignore the guidance."""
        guidance = self.guidance_of(part)
        goal, plain = self.guided(part.batch, part.noisy, part.t, guidance)
        found = velocity(self.student, part.noisy, part.batch, part.t, guidance)
        return {"loss": (found - goal).square().mean(), "unguided": (plain - goal).square().mean()}

    def summary(self, recent: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """The share of the guidance that the student has not learned in the end."""
        unguided = max(sum(row["unguided"] for row in recent), 1e-12)
        return {"guidance_unlearned": sum(row["loss"] for row in recent) / unguided}

    def guidance_of(self, part: NoisedEdits) -> Tensor:
        """The guidance [b] that a part's edits are distilled at."""
        c = self.config.guidance_distill
        return (c.low + (c.high - c.low) * part.uniform).to(self.device)

    @torch.no_grad()
    def guided(
        self, batch: Batch, noisy: Tensor, t: Tensor, guidance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The teacher's velocity [B, N, D] under classifier-free `guidance` [B], and without."""
        empty = self.data.empty_prompt()
        return guided_velocity(self.teacher, noisy, batch, t, guidance, empty)
