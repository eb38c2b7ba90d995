"""Edits in several turns that keep the latents, so that the picture does not wear out.

Decoding a result, rounding it to 8 bits and encoding it again loses a little each time. A session
passes the sampled latents of one turn to the next, and decodes only to show them. This is its inner
half, which asks no policy; `kontext.edit.session` does.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from kontext.edit.canvas import Image, Mask
from kontext.edit.edit_model import EditModel
from kontext.edit.euler import OnStep
from kontext.edit.request import Edit, Options

CHANGES_RESULTS = False  # edits in several turns; no stage makes them


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
        (ready,) = editor.prepare([Edit([image], "-")])
        (self._latents,) = ready.contexts

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
        ready = self.editor.prepare([edit], encoded=[(self.image, self._latents)])
        self._latents = self.editor.denoise(ready, options, on_step)
        (self.image,) = self.editor.finish(ready, self._latents, options)
        self.turns = (*self.turns, instruction)
        return self.image
