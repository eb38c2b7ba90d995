"""Guidance distillation: one pass that gives the guided velocity, told how strong (FLUX.1 [dev]).

Classifier-free guidance takes two passes a step. The student is the teacher with an embedding of
the guidance w added, and regresses the teacher's v_u + w (v_c - v_u) for w drawn from a range
(Meng et al., arXiv 2210.03142). FLUX.1 Kontext [dev] was made so, on image-to-image alone (arXiv
2506.15742, section 3); which condition v_u lacks is not published: here it is the instruction,
and the context stays, as for the sampler's text guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from kontext.errors import RecipeError
from kontext.models.batch import Batch, PairTensors, gather, sampling_weights
from kontext.models.sequence import pack
from kontext.models.transformer import FluxTransformer
from kontext.train.ema import Ema
from kontext.train.flow import add_noise, velocity
from kontext.train.loop import TrainState, generator
from kontext.train.optim import scale_rates, transformer_optimizers, warmup_cosine
from kontext.train.timesteps import sample_t
from schemas.train_config import FinetuneConfig


def with_guidance(teacher: FluxTransformer) -> FluxTransformer:
    """A copy of `teacher` with a guidance embedding that says nothing yet: equal at any guidance.

    Raises:
        RecipeError: the teacher has one already.
    """
    if teacher.shape.guidance_embed:
        raise RecipeError("guidance distillation adds an embedding: shape.guidance_embed is on")
    student = FluxTransformer(teacher.shape.model_copy(update={"guidance_embed": True}))
    student.load_state_dict(teacher.state_dict(), strict=False)
    assert student.guidance_in is not None
    torch.nn.init.zeros_(student.guidance_in.out_layer.weight)
    torch.nn.init.zeros_(student.guidance_in.out_layer.bias)
    return student.to(teacher.img_in.weight.device)


class GuidanceMethod:
    """One update of the student towards the teacher's guided velocity, on edits only.

    Args:
        config: the recipe section; `guidance_distill` has the steps and the range.
        data: encoded training pairs.
        teacher: trained with CFG dropout of the text; frozen here.

    Raises:
        RecipeError: the teacher has a guidance embedding, or was trained without text dropout.
    """

    def __init__(self, config: FinetuneConfig, data: PairTensors, teacher: FluxTransformer) -> None:
        if config.text_dropout + config.both_dropout <= 0:
            raise RecipeError("guidance distillation needs a teacher trained with text_dropout")
        torch.manual_seed(config.seed)
        self.config, self.data = config, data
        self.device = data.latents.device
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = with_guidance(teacher).requires_grad_(True).train()
        self.total_steps = config.guidance_distill.steps
        optimizers = transformer_optimizers(
            self.student,
            config.optimizer,
            config.guidance_distill.lr,
            config.weight_decay,
            config.groups,
        )
        self.state = TrainState(
            modules={"model": self.student},
            optimizers={type(o).__name__.lower(): o for o in optimizers},
            ema={"model": Ema(self.student, config.guidance_distill.ema_decay)},
        )
        self._edits = data.plain_edits()
        self._weights = sampling_weights(
            data, self._edits, config.category_weights, config.magnitude_balance
        )

    def step(self, index: int) -> Mapping[str, float]:
        """One update. `unguided` is the loss that a student deaf to the guidance would have."""
        c = self.config.guidance_distill
        scale_rates(self.state.optimizers.values(), warmup_cosine(index, c.steps, c.warmup))
        batch, noisy, t, guidance = self._inputs(index)
        goal, plain = self.guided(batch, noisy, t, guidance)
        for optimizer in self.state.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss = (velocity(self.student, noisy, batch, t, guidance) - goal).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.student.parameters(), c.clip)
        for optimizer in self.state.optimizers.values():
            optimizer.step()
        self.state.ema["model"].update(self.student)
        return {
            "loss": float(loss.detach()),
            "unguided": float((plain - goal).square().mean()),
            "grad_norm": float(norm),
        }

    @torch.no_grad()
    def guided(
        self, batch: Batch, noisy: Tensor, t: Tensor, guidance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The teacher's velocity [B, N, D] under classifier-free `guidance` [B], and without."""
        null = torch.full((len(t),), self.data.empty_text, device=batch.tokens.device)
        empty = replace(
            batch,
            tokens=self.data.text_tokens[null].float(),
            pooled=self.data.text_pooled[null].float(),
        )
        plain = velocity(self.teacher, noisy, batch, t)
        without = velocity(self.teacher, noisy, empty, t)
        return without + guidance.view(-1, 1, 1) * (plain - without), plain

    def _inputs(self, index: int) -> tuple[Batch, Tensor, Tensor, Tensor]:
        """A batch of edits, its noised targets, their levels, and the guidance of each."""
        c, seed = self.config.guidance_distill, self.config.seed
        index += self.config.t2i_steps + self.config.joint_steps  # after the steps of the flow
        draw = generator(seed, index, "batch")
        picks = torch.multinomial(self._weights, c.batch, replacement=True, generator=draw)
        batch = gather(self.data, self._edits[picks])
        clean = pack(batch.target)
        eps = torch.randn(clean.shape, generator=generator(seed, index, "noise")).to(self.device)
        times = generator(seed, index, "time")
        normal, shift = torch.randn(len(clean), generator=times), self.teacher.shape.timestep_shift
        t = sample_t(normal, clean.shape[1], shift).to(self.device)
        share = torch.rand(len(clean), generator=generator(seed, index, "dropout"))
        guidance = (c.low + (c.high - c.low) * share).to(self.device)
        return batch, add_noise(clean, eps, t), t, guidance
