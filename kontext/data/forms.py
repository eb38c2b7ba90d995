"""What stages read of a stored picture beside all of it: the crops to the sizes of the recipe.

Somebody may put listed pixels between two strips of others: then the whole picture is on no list,
and what a shard holds of it is. So every crop meets the hash gate before the picture is kept, has
its hash kept for later lists, and is scored by the classifiers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from kontext.data.buckets import Buckets, Fit, Size
from kontext.data.pixels import Pixels
from kontext.errors import CanaryError
from kontext.safety.canaries import PROVIDER, canary_image
from kontext.safety.hashes import GateResult, HashGate
from kontext.safety.ids import Outcome, Reason
from kontext.safety.proof import Probe, as_file
from schemas.sections.data import IngestConfig

_LARGE = 640  # pixels a side from which half of one changes no hash, so that none is mixed
_INSIDE, _BESIDE = 13, 20  # canaries: one of the bank, one that is nowhere
_SIDE = 256


@dataclass(frozen=True)
class Crops:
    """The crops that are read of a picture, at about the size that it is stored at."""

    buckets: Buckets

    @classmethod
    def of(cls, config: IngestConfig) -> "Crops":
        """Those of the recipe's sizes."""
        return cls(Buckets.of(config))

    def __call__(self, rgb: Pixels) -> list[Pixels]:
        """Of a stored picture [H, W, 3]: none where all of it is read."""
        return [_cut(form, rgb) for form in self._forms((rgb.shape[1], rgb.shape[0]))]

    def count(self, picture: Size) -> int:
        """How many there are of a stored picture (width, height)."""
        return len(self._forms(picture))

    def _forms(self, picture: Size) -> list[Fit]:
        forms = self.buckets.forms(picture)
        boxes = {form.box(picture): form for form in forms if not form.cuts_nothing}
        return list(boxes.values())


def _cut(form: Fit, rgb: Pixels) -> Pixels:
    left, top, right, bottom = form.box((rgb.shape[1], rgb.shape[0]))
    size = max(1, round(right - left)), max(1, round(bottom - top))
    if min(size) < _LARGE:  # the very part, whose edges may lie inside of pixels
        return replace(form, size=size)(rgb)
    return rgb[round(top) : round(bottom), round(left) : round(right)]


def gated(gate: HashGate, whole: GateResult, crops: Sequence[Pixels]) -> list[GateResult]:
    """What the gate says of a picture and then of its crops, up to the first that it stops."""
    found = [whole]
    for crop in crops:
        if stops(found[-1]):
            break
        found.append(gate.check_pixels(crop))
    return found


def stops(result: GateResult) -> bool:
    """Whether nothing of the picture may be kept."""
    return result.outcome not in (Outcome.PASS, Outcome.UNMATCHABLE)


def together(found: Sequence[GateResult]) -> GateResult:
    """The one decision on a picture: the first form that was stopped, else that is too plain."""
    last, plain = found[-1], (one for one in found if one.outcome is Outcome.UNMATCHABLE)
    return last if stops(last) else next(plain, found[0])


@lru_cache(maxsize=2)
def crop_probes(crops: Crops) -> tuple[Probe, ...]:
    """Files whose crops to the sizes are canaries, and which are none themselves."""
    aspects = sorted(width / height for width, height in crops.buckets.sizes)
    wide = round(_SIDE * aspects[-1]), _SIDE
    tall = _SIDE, round(_SIDE / aspects[0])
    return (
        _probe("crops of wide pictures", wide, (wide[0] // 4, 0)),
        _probe("crops of tall pictures", tall, (0, tall[1] // 4)),
    )


def _probe(name: str, size: Size, beside: Size) -> Probe:
    """A canary at `size` between strips of another one. PDQ knows it at any shape."""
    width, height = (side + 2 * more for side, more in zip(size, beside, strict=True))
    picture = canary_image(_BESIDE).resize((width, height), Image.Resampling.LANCZOS)
    picture.paste(canary_image(_INSIDE).resize(size, Image.Resampling.LANCZOS), beside)
    return Probe(name, as_file(picture, "PNG"), PROVIDER, Reason.CANARY)


def sure_scores(scores: pa.Table, images: pa.Table) -> None:
    """Raise CanaryError where IMAGE_SCORES lack a crop that ingest has gated of IMAGES.

    What could not be scored at all (NaN) passes no limit.
    """
    scores = scores.filter(pc.invert(pc.is_nan(scores["score"])))
    place = pc.index_in(scores["pixel_id"], value_set=images["pixel_id"].combine_chunks())
    crops = pc.list_value_length(images["crops"]).take(place).fill_null(0).to_numpy()
    forms = pc.list_value_length(scores["forms"]).fill_null(0).to_numpy()
    if lost := int((forms != 1 + crops).sum()):
        raise CanaryError(f"{lost:,} scores of images are not of every crop that is read of them")
