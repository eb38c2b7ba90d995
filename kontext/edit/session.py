"""Edits in several turns from Python, each of which the policy has let pass."""

from __future__ import annotations

from collections.abc import Sequence

from kontext.edit.canvas import Image, Mask, check_image
from kontext.edit.editor import Editor
from kontext.edit.euler import OnStep
from kontext.edit.request import Options
from kontext.edit.turns import Turns
from kontext.safety.ids import pixel_id

CHANGES_RESULTS = False  # edits in several turns; no stage makes them


class Session:
    """One picture on its way through several instructions.

    image: the picture as it is now, uint8 [H, W, 3]. turns: the instructions so far.
    """

    def __init__(self, editor: Editor, image: Image) -> None:
        """Start from `image`: it is checked, and encoded once.

        Raises:
            SafetyRefusal: the policy refuses it.
            KontextError: not an RGB image, or the ledger cannot be written.
        """
        self._screening = editor.guard.begin()
        self._screening.check_input(image)
        self._turns = Turns(editor.model, image)
        self._seen: set[str] = set()  # references that have passed, by their pixels

    @property
    def image(self) -> Image:
        """The picture as it is now, uint8 [H, W, 3]."""
        return self._turns.image

    @property
    def turns(self) -> tuple[str, ...]:
        """The instructions so far."""
        return self._turns.turns

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
        """Apply one more instruction and return the picture. One that fails is not taken.

        Args:
            mask: bool [H, W] of the picture as it is now, see `Edit`.

        Raises:
            SafetyRefusal: the policy refuses the instruction, a reference or the result.
            StoreError: the ledger cannot be written.
            KontextError: as for `EditModel.edit_many`.
        """
        self._screening.check_instruction(instruction)
        self._screening.check_together((*self.turns, instruction))
        for image in references:
            if (name := pixel_id(check_image(image))) not in self._seen:
                self._screening.check_input(image)
                self._seen.add(name)
        before = self._turns.state
        try:
            made = self._turns.turn(
                instruction, options, references, seed=seed, mask=mask, on_step=on_step
            )
            self._screening.check_result(made, len(before.turns))
            self._screening.commit()
        except BaseException:
            self._turns.state = before
            raise
        return made
