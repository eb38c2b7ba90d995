"""What `kontext edit` does, in order: decode guard, policy, editor, policy, file."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli_artifacts import open_artifacts
from kontext.errors import ArtifactError, KontextError, SafetyRefusal, WeightsError
from tasks.workspace import places

if TYPE_CHECKING:
    from kontext.data.decode import Pixels
    from kontext.safety.hashes import HashGate
    from kontext.sample.editor import Editor


@dataclass(frozen=True)
class EditRequest:
    """One edit. None takes the model's own steps and guidance."""

    image: Path
    instruction: str
    output: Path
    weights: str = ""
    steps: int | None = None
    seed: int = 0
    guidance: float | None = None
    store: str = ""
    policy: str = "default"
    hash_lists: tuple[str, ...] = ()


def edit_file(request: EditRequest) -> dict[str, Any]:
    """Edit one file and return the provenance that was written into it.

    Raises:
        DecodeError: not an image that we read.
        SafetyRefusal: the policy refuses the instruction, the image or the result.
        KontextError: no such file, no weights, an output that cannot be written.
    """
    from kontext.data.decode import decode_image
    from kontext.safety.hashes import HashGate
    from kontext.safety.policy import load_policy, screen_edit
    from kontext.sample.provenance import check_path, save_image
    from schemas.recipes import IngestConfig

    began = time.monotonic()
    check_path(request.output)
    policy = load_policy(request.policy)
    lists = IngestConfig(hash_lists=request.hash_lists)
    gate = HashGate.from_config(lists, places(request.store).home)
    data = _read(request.image)
    rgb = decode_image(data, resolution=None, background="#ffffff").rgb
    _check_bytes(gate, data, rgb)
    screen_edit(request.instruction, [rgb], policy, gate)
    editor = load_editor(request.weights, request.store)
    edited = editor.edit(
        [rgb],
        request.instruction,
        steps=request.steps,
        guidance=request.guidance,
        seed=request.seed,
    )
    screen_edit(request.instruction, [rgb, edited], policy, gate)
    made = editor.provenance(request.instruction, request.seed, request.steps, request.guidance)
    save_image(request.output, edited, made)
    seconds = round(time.monotonic() - began, 2)
    return {**asdict(made), "output": str(request.output), "seconds": seconds}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KontextError(f"cannot read {path}: {error.strerror}") from error


def _check_bytes(gate: HashGate, data: bytes, rgb: Pixels) -> None:
    """Exact hashes of the file itself; `screen_edit` sees pixels only."""
    result = gate.check(data, rgb)
    if result.outcome == "drop":
        raise SafetyRefusal(str(result.reason), "refused: the image is on a hash list")


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
