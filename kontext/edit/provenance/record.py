"""Saving an edit with its origin inside the file: model digest, instruction, seed, steps.

PNG carries it as a text chunk `kontext`; JPEG and WebP as EXIF ImageDescription. The IPTC source
type marks the picture as made with a generative model. No timestamps: equal edits, equal bytes,
unless they are signed (`credentials`), because a C2PA manifest has a number of its own.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kontext.edit.provenance.certificates import Signer
from kontext.edit.provenance.credentials import sign
from kontext.errors import KontextError

CHANGES_RESULTS = False  # marks what users edit; no stage does

KEY = "kontext"
EXIF_DESCRIPTION, _EXIF_SOFTWARE = 0x010E, 0x0131
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True)
class Provenance:
    """How an image was made."""

    model: str  # name of the model
    digest: str  # digest of its folder
    instruction: str
    seed: int
    steps: int
    guidance: float
    image_guidance: float = 1.0
    references: int = 0  # number of reference images
    masked: bool = False
    keep_detail: bool = False  # the context's detail was restored (kontext.edit.detail)
    tile: int = 0  # pixels a side of the tiles that the autoencoder worked in; 0: in one piece
    then: tuple[str, ...] = ()  # instructions of further turns
    quantize: str = ""  # "int8" or "fp8" where the transformer's weights were held so
    true_cfg: float = 1.0  # on the text, beside an embedded guidance
    attention: str = ""  # the kernel that ran, see kontext.parallel.attention.active_kernel
    policy: str = ""  # version of the safety policy that all images have passed
    hash_lists: str = ""  # name and version of every list they were matched against
    chain: str = ""  # the exposure that this chain of edits began with, signed (safety.chains)
    edited_at: str = ""  # width x height at which the model saw it, before it was brought back
    digital_source_type: str = SOURCE_TYPE


def check_path(path: Path) -> str:
    """PIL's format name for the file's extension, so that a bad path fails before the edit.

    Raises:
        KontextError: not .png, .jpg, .jpeg or .webp, or a folder that does not exist.
    """
    if path.suffix.lower() not in _FORMATS:
        raise KontextError(f"{path.name}: edits are saved as .png, .jpg or .webp")
    if not path.parent.is_dir():
        raise KontextError(f"cannot write {path}: there is no folder {path.parent}")
    return _FORMATS[path.suffix.lower()]


def save_image(
    path: Path,
    image: NDArray[np.uint8],
    provenance: Provenance,
    signer: Signer | None = None,
    inputs: Sequence[bytes] = (),
) -> None:
    """Write `image` [H, W, 3] with its provenance, in the format of the file's extension.

    Args:
        signer: signs a C2PA manifest into the file; None: none is written.
        inputs: the edited image's file and those of its references, for the manifest.

    Raises:
        KontextError: an extension we do not write, a folder that does not exist, or a certificate
            that C2PA refuses.
    """
    kind = check_path(path)
    data = encode_image(image, provenance, kind)
    if signer is not None:
        data = sign(data, f"image/{kind.lower()}", asdict(provenance), signer, inputs)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise KontextError(f"cannot write {path}: {error.strerror}") from error


def encode_image(image: NDArray[np.uint8], provenance: Provenance, format_name: str) -> bytes:
    """Encoded bytes of `image` [H, W, 3] as PNG, JPEG or WEBP."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text = json.dumps(asdict(provenance), sort_keys=True, ensure_ascii=True)
    options: dict[str, Any] = {}
    if format_name == "PNG":
        info = PngInfo()
        info.add_text("Software", "kontext")
        info.add_text(KEY, text)
        options["pnginfo"] = info
    else:
        exif = Image.Exif()
        exif[_EXIF_SOFTWARE] = "kontext"
        exif[EXIF_DESCRIPTION] = text
        options.update(exif=exif, quality=95)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format_name, **options)
    return buffer.getvalue()
