"""Edits image files, in order: checks, decode guard, policy, editor, policy, files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kontext.edit.editor import with_policy
from kontext.edit.request import Edit, Options
from kontext.edit.sizes import check_size
from kontext.errors import DecodeError, KontextError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kontext.data.buckets import Size
    from kontext.data.pixels import Pixels
    from kontext.edit.canvas import Mask
    from kontext.edit.edit_model import EditModel
    from kontext.edit.euler import OnStep
    from kontext.edit.weights.model_store import OpenStore
    from kontext.models.quantize import Scheme
    from kontext.safety.edits import EditScreening
    from kontext.safety.guard import EditGuard
    from kontext.store.artifacts.artifact_store import Artifact

CHANGES_RESULTS = False  # for users; no stage calls it


@dataclass(frozen=True)
class EditRequest:
    """Edits of one image, one for each seed. Mask, references and options hold for every turn."""

    images: tuple[Path, ...]  # the first is edited, the others are references
    instruction: str
    output: Path
    then: tuple[str, ...] = ()  # instructions of further turns, on the latents of the one before
    weights: str = ""  # model folder, artifact or tag; empty: the latest published model
    options: Options = field(default_factory=Options)
    seeds: tuple[int, ...] = (0,)
    mask: Path | None = None
    size: Size | None = None  # (width, height) that the model makes; None: the image's own shape
    tile_above: int | None = None  # pixels; None: the editor's own
    quantize: Scheme | None = None  # hold the transformer's weights in 8 bits
    kernel: str = "auto"  # of attention, see kontext.parallel.attention.use_kernel
    text: str = ""  # where the model's text encoders lie now; empty: where it says

    def outputs(self) -> list[Path]:
        """One file for each seed: OUT, or OUT-SEED where there are several."""
        if len(self.seeds) == 1:
            return [self.output]
        stem, suffix = self.output.stem, self.output.suffix
        return [self.output.with_name(f"{stem}-{seed}{suffix}") for seed in self.seeds]


def edit_file(
    request: EditRequest,
    guard: EditGuard,
    open_store: OpenStore,
    on_step: OnStep | None = None,
    on_phase: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Edit one file and return the provenance written into each result, and who signed it.

    Nothing is saved unless the policy lets the instruction, every image and every result pass, and
    the ledger has it. Refusals are in the ledger, too.

    Args:
        guard: of the home (KONTEXT_HOME), which also has the certificate and the cache of texts.
        open_store: opens the artifact store, where the weights are no folder.
        on_step: called with (steps done, steps) of the sampling.
        on_phase: called with a word for what begins.

    Raises:
        DecodeError: not an image that we read.
        SafetyRefusal: the policy refuses the instruction, an image or a result.
        StoreError: the ledger cannot be written.
        KontextError: an instruction, mask or size that cannot be used, no such file, no weights, an
            output that cannot be written, or a certificate that cannot sign it.
    """
    from kontext.edit.provenance.certificates import find_signer
    from kontext.edit.provenance.credentials import record
    from kontext.edit.provenance.record import check_path, save_image

    began, begin = time.monotonic(), on_phase or (lambda phase: None)
    begin("checking")
    check_path(request.output)
    _check_asked_size(request)
    screening, home = _screen_instructions(request, guard), guard.log.home
    files = [_read(path, screening) for path in request.images]
    mask = None if request.mask is None else _mask(request.mask, screening)
    images = _screen_inputs(files, screening, request)
    notes = [*filter(None, map(_transparent, request.images)), *screening.notes]
    begin("loading")
    from kontext.edit.weights.model_store import model_source  # loads torch: after the checks

    model, signer = model_source(request.weights, open_store), find_signer(home)
    editor = load_edit_model(model, home, request.quantize, request.kernel, request.text)
    if request.tile_above is not None:
        editor.codec.tile_above = request.tile_above
    edits = [Edit(images, request.instruction, seed, mask) for seed in request.seeds]
    job = _Job(editor, request, edits, screening, on_step, begin)
    results = job.turns() if request.then else job.single()
    screening.commit()
    begin("saving")
    written = []
    for edit, path, result in zip(edits, request.outputs(), results, strict=True):
        made, shape = editor.provenance(edit, request.options, request.then), _size_of(result)
        made = with_policy(made, screening, result)
        if request.size is not None:
            made = replace(made, edited_at=shape)
        save_image(path, result, made, signer, [data for _, data in files])
        more = {"output": str(path), "size": shape, "c2pa": record(signer), "notes": notes}
        written.append({**asdict(made), **more})
    return [{**row, "seconds": round(time.monotonic() - began, 2)} for row in written]


def _screen_instructions(request: EditRequest, guard: EditGuard) -> EditScreening:
    """The screening, which every instruction has passed."""
    turns = (request.instruction, *request.then)
    for instruction in turns:
        _check_instruction(instruction)
    screening = guard.begin()
    for instruction in turns:
        screening.check_instruction(instruction)
    screening.check_together(turns)
    return screening


def _screen_inputs(
    files: Sequence[tuple[Pixels, bytes]], screening: EditScreening, request: EditRequest
) -> list[Pixels]:
    """The pictures, all of which pass. The first is judged with what it was made of, and by."""
    from kontext.edit.provenance.read import chain_of, said_of

    for image, data in files:
        screening.check_input(image, data, chain_of(data))
    if said := said_of(files[0][1]):
        screening.check_together((*said, request.instruction, *request.then))
    return [image for image, _ in files]


@dataclass(frozen=True)
class _Job:
    """The edits of one file, whose instructions and images have passed."""

    editor: EditModel
    request: EditRequest
    edits: Sequence[Edit]  # one for each seed
    screening: EditScreening
    on_step: OnStep | None
    begin: Callable[[str], None]

    def single(self) -> list[Pixels]:
        """One picture for each seed; all of them pass."""
        results = self.editor.edit_many(
            self.edits,
            self.request.options,
            size=self.request.size,
            on_step=self.on_step,
            on_phase=self.begin,
        )
        self.begin("checking")
        for result in results:
            self.screening.check_result(result)
        return results

    def turns(self) -> list[Pixels]:
        """The last picture of a session per seed; a turn's picture passes before the next turn."""
        texts = (self.request.instruction, *self.request.then)
        for text in texts:
            self.editor.check_instruction(text)
        return [self._session(row, edit, texts) for row, edit in enumerate(self.edits)]

    def _session(self, row: int, edit: Edit, texts: Sequence[str]) -> Pixels:
        from kontext.edit.euler import part_of
        from kontext.edit.turns import Turns

        self.begin("encoding")
        session = Turns(self.editor, edit.images[0])
        turns = len(self.edits) * len(texts)
        for turn, text in enumerate(texts):
            self.begin("sampling")
            session.turn(
                text,
                self.request.options,
                edit.images[1:],
                seed=edit.seed,
                mask=edit.mask,
                on_step=part_of(self.on_step, row * len(texts) + turn, turns),
            )
            self.begin("checking")
            self.screening.check_result(session.image, turn)
        return session.image


def _check_asked_size(request: EditRequest) -> None:
    if request.size is not None:
        check_size(request.size)
        if request.then or request.mask:
            raise KontextError("a size of its own is for an edit in one turn and without a mask")


def _size_of(image: Pixels) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _check_instruction(instruction: str) -> None:
    """What no model and no policy can read; the model's own limit is the editor's to check."""
    from kontext.safety.text import MAX_CHARS

    if not instruction.strip():
        raise KontextError("the instruction is empty")
    if len(instruction) > MAX_CHARS:
        raise KontextError(
            f"the instruction has {len(instruction):,} characters, at most {MAX_CHARS:,} are read"
        )


def _read(path: Path, screening: EditScreening) -> tuple[Pixels, bytes]:
    """The file's first picture as RGB, and its own bytes, which the hash lists may know too.

    The pictures behind it meet the hash lists as well.
    """
    from kontext.data.decode import decode_image

    try:
        data = path.read_bytes()
    except OSError as error:
        raise KontextError(f"cannot read {path}: {error.strerror}") from error
    try:
        white, later = "#ffffff", screening.sees_frame
        rgb = decode_image(data, resolution=None, background=white, later=later).rgb
    except DecodeError as error:
        raise DecodeError(error.reason, f"{path.name}: {error}") from error
    screening.check_frames(rgb)
    return rgb, data


def _transparent(path: Path) -> str:
    """What is to be said of a picture with transparent parts: an edit has none."""
    from kontext.data.decode import decode_image

    data = path.read_bytes()
    white = decode_image(data, resolution=None, background="#ffffff")
    black = decode_image(data, resolution=None, background="#000000") if white.alpha else white
    return f"{path.name}: its transparent parts are white" if (white.rgb != black.rgb).any() else ""


def _mask(path: Path, screening: EditScreening) -> Mask:
    """White (above half grey) is where the image may change."""
    image, data = _read(path, screening)
    screening.match_hashes(image, data)
    mask: Mask = image.mean(axis=2) > 127
    return mask


def load_edit_model(
    model: Path | Artifact,
    home: Path,
    quantize: Scheme | None = None,
    kernel: str = "auto",
    text: str = "",
) -> EditModel:
    """The unguarded model of a model folder, or of an artifact with one in it.

    The attention kernel is run once against the plain formula before anything is loaded. What
    `auto` takes is used all the same where that fails; the record says so.

    Args:
        text: where the model's text encoders lie now (`with_text`); empty: where it says.

    Raises:
        WeightsError: no model there, or its text encoders are not.
        KernelError: the kernel does not run here, or not for this model.
    """
    import torch

    from kontext.edit.edit_model import EditModel
    from kontext.edit.weights.folder import load_model_folder, read_config
    from kontext.edit.weights.text import with_text
    from kontext.models.text.cache import cached_text_encoder
    from kontext.parallel.attention import KernelError, use_kernel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    use_kernel(kernel, device, fallback=kernel == "auto")
    settings = with_text(read_config(model).settings, text)  # first: the weights may be 24 GB
    encoder = cached_text_encoder(settings.text_encoder, device, home / "cache" / "texts")
    if settings.text_mask and kernel in ("flash2", "fa3", "fa4"):
        raise KernelError(
            f"model '{settings.name}' masks its text, which '{kernel}' cannot: use auto"
        )
    loaded = load_model_folder(model, device, quantize=quantize)
    return EditModel(loaded, encoder, device)
