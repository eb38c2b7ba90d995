"""Edit pictures from Python: the same model, policy, hash lists and ledger as `kontext edit`.

    from kontext.edit.edit_file import load_edit_model
    from kontext.safety.guard import EditGuard

    guard = EditGuard.of(home, open_store("file:///home/store"))
    editor = Editor(load_edit_model(model, home), guard)
    made = editor.edit([photo], "make it night")

There is no editor without a guard. Who must do without a policy says so: `Unguarded("why", log)`
is a guard that lets everything pass; each of its edits is a row of the ledger, and the reason is in
its provenance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kontext.edit.request import Edit, Options, asked

if TYPE_CHECKING:
    from kontext.data.buckets import Size
    from kontext.edit.canvas import Image
    from kontext.edit.edit_model import EditModel, OnPhase
    from kontext.edit.euler import OnStep
    from kontext.edit.provenance.record import Provenance
    from kontext.safety.guard import Guard, Screening

CHANGES_RESULTS = False  # edits for users; no stage makes them


class Editor:
    """A model and who is asked whether it may edit. `model` is the unguarded one."""

    def __init__(self, model: EditModel, guard: Guard) -> None:
        """Put them together; nothing is asked yet."""
        self.model, self.guard = model, guard
        self._said: dict[int, tuple[Image, Screening]] = {}  # of the last call's results

    def edit(
        self,
        images: Sequence[Image],
        instruction: str,
        *,
        size: Size | None = None,
        on_step: OnStep | None = None,
        **more: Any,
    ) -> Image:
        """Make one edit; `more` are fields of `Edit` and `Options`. See `edit_many`."""
        edit, options = asked(images, instruction, more)
        return self.edit_many([edit], options, size=size, on_step=on_step)[0]

    def edit_many(
        self,
        edits: Sequence[Edit],
        options: Options | None = None,
        *,
        batch: int = 1,
        size: Size | None = None,
        on_step: OnStep | None = None,
        on_phase: OnPhase | None = None,
    ) -> list[Image]:
        """Make several edits, all of which the policy lets pass, or none. See `EditModel`.

        Raises:
            SafetyRefusal: the policy refuses an instruction, an image or a result.
            StoreError: the ledger cannot be written, so nothing is handed out.
            KontextError: as `EditModel.edit_many`.
        """
        screenings = self._screened(edits)
        made = self.model.edit_many(
            edits, options, batch=batch, size=size, on_step=on_step, on_phase=on_phase
        )
        for screening, result in zip(screenings, made, strict=True):
            screening.check_result(result)
        for screening in dict.fromkeys(screenings):
            screening.commit()
        self._said = {id(r): (r, s) for r, s in zip(made, screenings, strict=True)}
        return made

    def provenance(
        self,
        edit: Edit,
        options: Options,
        then: tuple[str, ...] = (),
        result: Image | None = None,
    ) -> Provenance:
        """What `save_image` writes into a file.

        Args:
            result: one that the last call has returned: then the file also says where its chain of
                edits began.
        """
        made = self.model.provenance(edit, options, then)
        _, screening = self._said.get(id(result), (None, None))
        return with_policy(made, screening or self.guard.begin(), result if screening else None)

    def _screened(self, edits: Sequence[Edit]) -> list[Screening]:
        """A screening for each edit, whose words and images have passed; one for equal images."""
        found: dict[tuple[int, ...], Screening] = {}
        keys = [tuple(map(id, edit.images)) for edit in edits]
        for key, edit in zip(keys, edits, strict=True):
            if key not in found:
                found[key] = self.guard.begin()
            found[key].check_instruction(edit.instruction)
        for key, edit in dict(zip(keys, edits, strict=True)).items():
            for image in edit.images:
                found[key].check_input(image)
        return [found[key] for key in keys]


def with_policy(made: Provenance, screening: Screening, result: Image | None) -> Provenance:
    """A record that says which policy its edit has passed, and where its chain of edits began."""
    chain = "" if result is None else screening.token(result)
    return replace(made, policy=screening.policy, hash_lists=screening.hash_lists, chain=chain)
