"""Content Credentials: a signed C2PA manifest inside the saved edit (https://c2pa.org).

It says that the picture was opened and edited with a trained model, holds our provenance as an
assertion, and names the edited image and the references as ingredients, with their own manifests
where they have any. No thumbnails: a result never carries its inputs. Signing is local; nothing is
fetched and no time stamp is asked for.
"""

import io
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kontext.edit.provenance.certificates import Signer, why_unsigned
from kontext.errors import KontextError

CHANGES_RESULTS = False  # signs what users edit; no stage does

ASSERTION = "kontext.provenance"
# nothing is fetched, and no thumbnail is made
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


def record(signer: Signer | None) -> dict[str, Any]:
    """What the result says of its signature."""
    if signer is None:
        return {"signed": False, "why": why_unsigned()}
    return {"signed": True, "by": signer.name, "on_no_trust_list": signer.own}


def sign(
    data: bytes,
    mime: str,
    provenance: Mapping[str, Any],
    signer: Signer,
    inputs: Sequence[bytes] = (),
) -> bytes:
    """`data` (an encoded image of type `mime`) with a signed manifest inside.

    Args:
        provenance: fields of `kontext.edit.provenance.record.Provenance`.
        inputs: the files that the edit started from; the first is the edited one. None at all: the
            picture was drawn from words.

    Raises:
        KontextError: c2pa refuses, e.g. for a certificate that its profile does not allow.
    """
    import c2pa

    made = io.BytesIO()
    info = c2pa.C2paSignerInfo(signer.algorithm, signer.chain.encode(), signer.key.encode(), None)
    try:
        with (
            c2pa.Context.from_dict(_SETTINGS) as context,
            c2pa.Signer.from_info(info) as seal,
            c2pa.Builder(json.dumps(_manifest(mime, provenance, len(inputs))), context) as builder,
        ):
            for number, source in enumerate(inputs):
                builder.add_ingredient(_ingredient(number), _mime(source), io.BytesIO(source))
            builder.sign(seal, mime, io.BytesIO(data), made)
    except c2pa.C2paError as error:
        raise KontextError(f"the edit could not be signed: {error}") from error
    return made.getvalue()


def _manifest(mime: str, provenance: Mapping[str, Any], inputs: int) -> dict[str, Any]:
    """The manifest's definition: who made it, what was done, our provenance."""
    agent = {"name": "kontext", "version": _version()}
    made = {
        "action": "c2pa.edited" if inputs else "c2pa.created",
        "digitalSourceType": provenance["digital_source_type"],
        "softwareAgent": agent,
    }
    if inputs > 1:
        made["parameters"] = {"ingredientIds": [_label(n) for n in range(1, inputs)]}
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [_label(0)]}}
    return {
        "claim_generator_info": [agent],
        "format": mime,
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": [opened, made] if inputs else [made]}},
            {"label": ASSERTION, "data": dict(provenance)},
        ],
    }


def _ingredient(number: int) -> str:
    kind = "inputTo" if number else "parentOf"
    title = f"reference {number}" if number else "edited image"
    return json.dumps({"title": title, "relationship": kind, "label": _label(number)})


def _label(number: int) -> str:
    return f"input-{number}"


def _mime(data: bytes) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return Image.MIME.get(image.format or "", "application/octet-stream")


def _version() -> str:
    try:
        return version("kontext")
    except PackageNotFoundError:
        return "0"  # run from the source tree
