"""One picture through the hash gate, and the rows that it leaves in ingest's tables.

A hit leaves one decision and one reject row, both with an HMAC, and no pixel, name or hash. So does
a picture whose name or labels the text rules refuse, or whose pixels the policy.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kontext.data.buckets import Buckets, scaled, shrunk
from kontext.data.decode import Decoded
from kontext.data.forms import Crops, gated, stops, together
from kontext.data.payloads import Verdict
from kontext.data.pixels import Pixels, encode_png, on_canvas
from kontext.data.scoring import Scorer
from kontext.data.sources.base import SourceItem
from kontext.data.words import names_of, refused_names
from kontext.errors import DecodeError, GateError
from kontext.safety.hashes import GateResult, HashGate
from kontext.safety.ids import Check, Decision, Outcome, Reason, subject_hmac
from kontext.safety.text import rules_version
from schemas.sections.data import IngestConfig

KEPT = "kept"  # an outcome
POLICY = "hash-gate/1"
_NO_PIXELS = np.zeros((64, 64, 3), np.uint8)  # has no PDQ quality: only exact hashes can match

Row = dict[str, Any]
Said = TypeVar("Said")


class Read(NamedTuple):
    """What is read of a picture beside all of it, and what judges every form of it."""

    crops: Crops
    scorer: Scorer


class Later:
    """Checks the pictures of a file behind its first, as they are decoded."""

    def __init__(self, gate: HashGate) -> None:
        self._gate = gate
        self.hit: GateResult | None = None  # what the gate says of the first that it stops

    def __call__(self, rgb: Pixels) -> bool:
        """Whether to go on with the next one. Raises GateError, whatever breaks in the gate."""
        found = _sure(lambda: self._gate.check_pixels(rgb))
        self.hit = found if stops(found) else None
        return self.hit is None


def gate_one(
    item: SourceItem,
    data: bytes,
    decoded: Decoded | None,
    kept: Decoded | None,
    problem: DecodeError | None,
    gate: HashGate,
    key: bytes,
    rows: dict[str, list[Row]],
    read: Read,
    png: bytes | None = None,
    later: GateResult | None = None,
) -> Verdict:
    """Rows of one image: what the gate says of its pixels, as they came, are kept and are read.

    What passes the gate meets the classifiers. `png` is what it is stored as, where that is there
    already; `later` what the gate has said of a picture behind the first.
    """
    image_id = hashlib.sha256(data).hexdigest()
    subject = subject_hmac(image_id, key)
    crops = [] if kept is None else read.crops(kept.rgb)
    said = _sure(lambda: _asked(data, decoded, kept, gate, crops))
    result = together(said)
    if not stops(result) and later is not None:
        result = later
    hit = stops(result)
    words = None if hit else refused_names(*names_of(item))
    if words is not None:
        return _unnamed(item, subject, words, rows)
    plain = result.outcome is Outcome.UNMATCHABLE
    scored = None if hit or kept is None else read.scorer([kept.rgb, *crops], plain)
    refused = scored is not None and scored.refusal is not None
    if hit or scored is not None:
        row = _gate_row(subject, result)
        if scored is not None and scored.refusal is not None:
            row = scored.decision(subject, read.scorer.policy.id)
        rows["decisions"].append(row._asdict())
    if hit or refused:
        # neither name nor detail: what is stopped leaves nothing that points back at it
        rows["rejects"].append(reject_row(item.source, subject, "", str(row.reason)))
        rows["outcomes"].append(outcome_row(rows["rejects"][-1], checked=True))
        return Verdict.STOPPED
    if kept is None:
        assert problem is not None
        rows["rejects"].append(
            reject_row(item.source, subject, item.ref, str(problem.reason), str(problem))
        )
        rows["outcomes"].append(outcome_row(rows["rejects"][-1], checked=False))
        return Verdict.REFUSED
    assert scored is not None
    rows["images"].append(_image(item, data, image_id, kept, said, scored.values))
    rows["pixels"].append({"pixel_id": kept.pixel_id, "png": png or encode_png(kept.rgb)})
    found = reject_row(item.source, subject, item.ref, KEPT)
    rows["outcomes"].append(outcome_row(found, checked=True, pixels=kept.pixel_id))
    return Verdict.KEPT


def _gate_row(subject: str, result: GateResult) -> Decision:
    said = (result.provider, result.outcome, result.reason)
    return Decision("image", subject, Check.HASH_GATE, *said, POLICY)


def _asked(
    data: bytes,
    decoded: Decoded | None,
    kept: Decoded | None,
    gate: HashGate,
    crops: Sequence[Pixels],
) -> list[GateResult]:
    """What the gate says of one image, and of the crops that are read of what is kept of it."""
    result = gate.check(data, _NO_PIXELS if decoded is None else decoded.rgb)
    if not stops(result) and kept is not None and kept is not decoded:
        # what is kept has other pixels than what came: neither may be on a list, and it is the hash
        # of what is kept that a later list has to meet
        result = gate.check(data, kept.rgb)
    if stops(result) or kept is None:
        return [result]
    return gated(gate, result, crops)


def _unnamed(item: SourceItem, subject: str, words: Reason, rows: dict[str, list[Row]]) -> Verdict:
    """Rows of a picture whose name or labels the text rules refuse: without any of them."""
    rows["decisions"].append(
        Decision(
            "text", subject, Check.TEXT_RULE, rules_version(), Outcome.DROP, words, POLICY
        )._asdict()
    )
    rows["rejects"].append(reject_row(item.source, subject, "", str(words)))
    rows["outcomes"].append(outcome_row(rows["rejects"][-1], checked=True))
    return Verdict.REFUSED


def kept_of(item: SourceItem, decoded: Decoded, config: IngestConfig) -> Decoded:
    """The whole picture in its own shape, as many pixels of it as are stored."""
    if item.canvas is not None:
        rgb = on_canvas(decoded.rgb, item.canvas, config.background)
        decoded = replace(decoded, rgb=rgb)
    own = decoded.rgb.shape[1], decoded.rgb.shape[0]
    drawn = item.synthetic or item.trusted_svg
    size = Buckets.of(config).cover(own) if drawn else shrunk(own, config.max_side)
    if size == own:
        return decoded
    rgb = scaled(decoded.rgb, size)
    return replace(decoded, rgb=rgb)


def _sure(check: Callable[[], Said]) -> Said:
    """What the gate says. Raises GateError, whatever breaks in it."""
    try:
        return check()
    except GateError:
        raise
    except Exception as error:  # noqa: BLE001 - an unchecked picture must not pass
        text = f"the hash gate broke ({type(error).__name__}): nothing of this run is kept"
        raise GateError(text) from None  # what broke may quote the picture


def outcome_row(row: Row, *, checked: bool, pixels: str = "") -> Row:
    """OUTCOMES row of what REJECTS' columns say of; `checked` where decisions has its row."""
    same = {name: row[name] for name in ("source", "subject_hmac", "source_ref")}
    found = {"outcome": row["reason"], "checked": checked, "pixel_id": pixels}
    return {**same, **found, "made": False, "item": ""}


def reject_row(source: str, subject: str, ref: str, reason: str, detail: str = "") -> Row:
    """REJECTS row."""
    return {
        "source": source,
        "subject_hmac": subject,
        "source_ref": ref,
        "reason": reason,
        "detail": detail,
    }


def _image(
    item: SourceItem,
    data: bytes,
    image_id: str,
    kept: Decoded,
    said: Sequence[GateResult],
    scores: Sequence[float],
) -> Row:
    height, width = kept.rgb.shape[:2]
    result, *crops = said
    return {
        "pixel_id": kept.pixel_id,
        "image_id": image_id,
        "pdq": result.pdq,
        "pdq_quality": result.pdq_quality,
        "crops": [{"pdq": crop.pdq, "pdq_quality": crop.pdq_quality} for crop in crops],
        "scores": scores,
        "width_px": width,
        "height_px": height,
        "orig_width_px": kept.orig_size[0],
        "orig_height_px": kept.orig_size[1],
        "bytes": len(data),
        "format": kept.format,
        "source": item.source,
        "source_ref": item.ref,
        "group_key": item.group_key,
        "concept": item.concept,
        "attributes": json.dumps(item.attributes, sort_keys=True, ensure_ascii=False),
        "license_spdx": item.license_spdx,
        "author": item.author,
        "synthetic": item.synthetic,
    }
