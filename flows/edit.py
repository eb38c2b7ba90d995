"""What `kontext edit` does, in order: checks, decode guard, policy, editor, policy, files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli_artifacts import open_artifacts
from kontext.errors import ArtifactError, DecodeError, KontextError, SafetyRefusal, WeightsError
from tasks.workspace import places

if TYPE_CHECKING:
    from collections.abc import Callable

    from kontext.data.decode import Pixels
    from kontext.safety.hashes import HashGate
    from kontext.sample.canvas import Mask
    from kontext.sample.editor import Editor


@dataclass(frozen=True)
class EditRequest:
    """Edits of one image, one for each seed. None takes the model's own steps and guidance."""

    images: tuple[Path, ...]  # the first is edited, the others are references
    instruction: str
    output: Path
    weights: str = ""
    steps: int | None = None
    seeds: tuple[int, ...] = (0,)
    guidance: float | None = None
    image_guidance: float = 1.0
    mask: Path | None = None
    tile_above: int | None = None  # pixels; None: the editor's own
    store: str = ""
    policy: str = "default"
    hash_lists: tuple[str, ...] = ()

    def outputs(self) -> list[Path]:
        """One file for each seed: OUT, or OUT-SEED where there are several."""
        if len(self.seeds) == 1:
            return [self.output]
        stem, suffix = self.output.stem, self.output.suffix
        return [self.output.with_name(f"{stem}-{seed}{suffix}") for seed in self.seeds]


def edit_file(
    request: EditRequest, on_step: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """Edit one file and return the provenance written into each result.

    Nothing is saved unless the policy lets the instruction, every image and every result pass.

    Raises:
        DecodeError: not an image that we read.
        SafetyRefusal: the policy refuses the instruction, an image or a result.
        KontextError: an instruction or mask that cannot be used, no such file, no weights, an
            output that cannot be written.
    """
    from kontext.safety.hashes import HashGate
    from kontext.safety.policy import load_policy, screen_edit
    from kontext.sample.provenance import check_path, save_image
    from schemas.recipes import IngestConfig

    began = time.monotonic()
    check_path(request.output)
    _check_instruction(request.instruction)
    policy = load_policy(request.policy)
    lists = IngestConfig(hash_lists=request.hash_lists)
    gate = HashGate.from_config(lists, places(request.store).home)
    images = [_pixels(path, gate) for path in request.images]
    mask = None if request.mask is None else _mask(request.mask, gate)
    for image in images:  # one by one: the rule on pairs is for a result beside its inputs
        screen_edit(request.instruction, [image], policy, gate)
    editor = load_editor(request.weights, request.store)
    if request.tile_above is not None:
        editor.tile_above = request.tile_above
    results = _edit(editor, request, images, mask, on_step)
    for result in results:
        screen_edit(request.instruction, [*images, result], policy, gate)
    written = []
    for seed, path, result in zip(request.seeds, request.outputs(), results, strict=True):
        made = editor.provenance(
            request.instruction,
            seed,
            request.steps,
            request.guidance,
            image_guidance=request.image_guidance,
            references=len(images) - 1,
            masked=mask is not None,
            tile=editor.tile(images[0]),
        )
        save_image(path, result, made)
        written.append({**asdict(made), "output": str(path)})
    seconds = round(time.monotonic() - began, 2)
    return [{**row, "seconds": seconds} for row in written]


def _edit(
    editor: Editor,
    request: EditRequest,
    images: Sequence[Pixels],
    mask: Mask | None,
    on_step: Callable[[int, int], None] | None,
) -> list[Pixels]:
    from kontext.sample.editor import Edit, Options

    return editor.edit_many(
        [Edit(images, request.instruction, seed, mask) for seed in request.seeds],
        Options(request.steps, request.guidance, request.image_guidance),
        on_step=on_step,
    )


def _check_instruction(instruction: str) -> None:
    """What no model and no policy can read; the model's own limit is the editor's to check."""
    from kontext.safety.text import MAX_CHARS

    if not instruction.strip():
        raise KontextError("the instruction is empty")
    if len(instruction) > MAX_CHARS:
        raise KontextError(
            f"the instruction has {len(instruction):,} characters, at most {MAX_CHARS:,} are read"
        )


def _pixels(path: Path, gate: HashGate) -> Pixels:
    """The file as RGB. Its own bytes go through the hash gate: `screen_edit` sees pixels only."""
    from kontext.data.decode import decode_image

    try:
        data = path.read_bytes()
    except OSError as error:
        raise KontextError(f"cannot read {path}: {error.strerror}") from error
    try:
        rgb = decode_image(data, resolution=None, background="#ffffff").rgb
    except DecodeError as error:
        raise DecodeError(error.reason, f"{path.name}: {error}") from error
    result = gate.check(data, rgb)
    if result.outcome == "drop":
        raise SafetyRefusal(str(result.reason), "refused: the image is on a hash list")
    return rgb


def _mask(path: Path, gate: HashGate) -> Mask:
    """White (above half grey) is where the image may change."""
    mask: Mask = _pixels(path, gate).mean(axis=2) > 127
    return mask


def load_editor(weights: str, store: str) -> Editor:
    """The editor for a model folder, an artifact reference, or the latest published model."""
    import torch

    from kontext.sample.editor import Editor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if weights and Path(weights).is_dir():
        return Editor.load(Path(weights), device)
    try:
        return Editor.load(open_artifacts(store).show(weights or "publish"), device)
    except ArtifactError as error:
        if weights:
            raise WeightsError(f"'{weights}' is neither a folder nor an artifact") from error
        raise WeightsError("no published model yet: `kontext run` makes one") from error
