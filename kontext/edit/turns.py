"""Edits in several turns that keep the latents, so that the picture does not wear out.

Decoding a result, rounding it to 8 bits and encoding it again loses a little each time. A session
passes the sampled latents of one turn to the next, and decodes only to show them. This is its inner
half, which asks no policy; `kontext.edit.session` does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kontext.edit.canvas import Image, Mask
from kontext.edit.edit_model import EditModel, batches_of
from kontext.edit.euler import OnStep, part_of
from kontext.edit.request import Edit, Options


def first_latents(editor: EditModel, images: Sequence[Image], batch: int = 1) -> list[Tensor]:
    """Latents [1, C, h, w] of the pictures that first turns change. Raises KontextError."""
    ready = editor.prepare([Edit([image], "-") for image in images], batch=batch)
    return [job.contexts[0] for job in ready]


def next_turn(
    editor: EditModel,
    edits: Sequence[Edit],
    latents: Sequence[Tensor],
    options: Options,
    *,
    batch: int = 1,
    on_step: OnStep | None = None,
) -> tuple[list[Image], list[Tensor]]:
    """One turn of several pictures: the pictures and the latents that it made.

    Args:
        latents: of each edit's first image, as the turn before made them.
        batch: how many edits of equal sizes share a forward pass.

    Raises:
        KontextError: as `EditModel.prepare`.
    """
    known = [(edit.images[0], own) for edit, own in zip(edits, latents, strict=True)]
    ready = editor.prepare(edits, batch=batch, encoded=known)
    groups = list(batches_of(ready, batch, lambda job: job.shapes))
    made: list[Image] = []
    kept: list[Tensor] = []
    for number, jobs in enumerate(groups):
        sampled = editor.denoise(jobs, options, part_of(on_step, number, len(groups)))
        made += editor.finish(jobs, sampled, options)
        kept += torch.split(sampled, 1)
    return made, kept


def shown(
    editor: EditModel,
    edits: Sequence[Edit],
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    options: Options,
    batch: int = 1,
) -> list[Image]:
    """The pictures of latents `after` that a turn has sampled from those `before`, for `options`.

    Raises KontextError: as `EditModel.prepare`.
    """
    known = [(edit.images[0], own) for edit, own in zip(edits, before, strict=True)]
    made: list[Image] = []
    for jobs in batches_of(editor.prepare(edits, encoded=known), batch, lambda job: job.shapes):
        own = torch.cat(list(after[len(made) : len(made) + len(jobs)]))
        made += editor.finish(jobs, own, options)
    return made


class State(NamedTuple):
    """What a turn changes: the picture, its latents [1, C, h, w] and the instructions so far."""

    image: Image
    latents: Tensor
    turns: tuple[str, ...]


class Turns:
    """One picture on its way through several instructions, unguarded.

    image: the picture as it is now, uint8 [H, W, 3]. turns: the instructions so far.
    """

    def __init__(self, editor: EditModel, image: Image) -> None:
        """Start from `image`. It is encoded here, once.

        Raises:
            KontextError: not an RGB image.
        """
        self.editor, self.image = editor, image
        self.turns: tuple[str, ...] = ()
        (self._latents,) = first_latents(editor, [image])

    @property
    def state(self) -> State:
        """Where it is; setting it goes back there."""
        return State(self.image, self._latents, self.turns)

    @state.setter
    def state(self, before: State) -> None:
        self.image, self._latents, self.turns = before

    def turn(
        self,
        instruction: str,
        options: Options | None = None,
        references: Sequence[Image] = (),
        *,
        seed: int = 0,
        mask: Mask | None = None,
        on_step: OnStep | None = None,
    ) -> Image:
        """Apply one more instruction to the picture and return it; a turn that fails is not taken.

        Args:
            mask: bool [H, W] of the picture as it is now, see `Edit`.

        Raises:
            KontextError: as for `EditModel.edit_many`.
        """
        self.editor.check_instruction(instruction)
        options = options or Options()
        edit = Edit([self.image, *references], instruction, seed, mask)
        made = next_turn(self.editor, [edit], [self._latents], options, on_step=on_step)
        (self.image,), (self._latents,) = made
        self.turns = (*self.turns, instruction)
        return self.image
