"""face-api's apparent age of faces: a proxy for pictures that may show somebody under age.

It is no measure of age. It was never tried on children here, and errs by years on adults; so it
says nothing alone. A policy asks it together with exposure (`combinations`), far above 18 years.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kontext.safety.classifiers.base import BATCH, Pixels, Scores, torch_threads
from kontext.safety.classifiers.npm_files import broken, package_folder, read_model, unpacked
from schemas.risks import Risk

if TYPE_CHECKING:
    import torch

NAME = "face-api-age"
RISKS = (
    Risk(
        "apparent_minor",
        classifier=NAME,
        score="apparent youth",
        label="apparent youth",
        refusal="the image could not be checked",  # youth alone is above no limit
        always_varies=False,  # pictures without faces
    ),
)
LABELS = ("FACE_API_FACE", "FACE_API_YOUTH", "FACE_API_YOUNG_FACE")
OLDEST = 50.0  # years from which the score is 0
MOST = 0.98  # the score of an apparent age of 0: below a limit of 0.99, which stops nothing alone
SURE = 0.5  # confidence from which a box is a face
_NETS = ("tiny_face_detector_model", "age_gender_model")
_FILES = tuple(f"model/{net}{kind}" for net in _NETS for kind in ("-weights_manifest.json", ".bin"))
_SIDE, _FACE_SIDE = 416, 112
_CELLS, _ANCHORS = 13, 5
_ANCHOR_SIZES = np.array(  # width, height in cells
    [
        (1.603231, 2.094468),
        (6.041143, 7.080126),
        (2.882459, 3.518061),
        (4.266906, 5.178857),
        (9.041765, 10.66308),
    ]
)
_MEAN, _FACE_MEAN = (117.001, 114.697, 97.404), (122.782, 117.001, 104.298)
_FACES = 16  # of a picture, the strongest
_WEAKEST = 0.1  # confidence of a box that is looked at, but for the strongest
_OVERLAP = 0.4  # intersection over union from which two boxes are one

Params = dict[str, "torch.Tensor"]


class Box(NamedTuple):
    """A face, in pixels of the picture."""

    confidence: float
    left: int
    top: int
    width: int
    height: int


class FaceApiAge:
    """Faces and their apparent ages by @vladmandic/face-api 1.7.15 (MIT), run by torch.

    The youth of a box is 0.98 x (1 - age / 50), within [0, 0.98]: 0.49 is 25 years, 0.59 is 20.
    Labels: `FACE_API_FACE` is the largest confidence of a box, `FACE_API_YOUTH` the youth of that
    box, a face or not; `FACE_API_YOUNG_FACE` is the largest youth of all boxes, each times its
    confidence over 0.5 where that is below 1.
    """

    name = NAME
    labels: tuple[str, ...] = LABELS

    def __init__(self, threads: int = 1) -> None:
        folder = package_folder("@vladmandic/face-api", NAME)
        self.version, found = read_model(folder, _FILES, NAME)
        try:
            self._detector, self._ages = (
                _tensors(json.loads(manifest), data)
                for manifest, data in zip(found[::2], found[1::2], strict=True)
            )
            _detect(self._detector, _squares([_BLANK], _SIDE, _MEAN, centred=False))
            _ages(self._ages, _squares([_BLANK], _FACE_SIDE, _FACE_MEAN, centred=True))
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise broken(NAME, folder, error) from error
        self._threads = threads

    def scores(self, images: Sequence[Pixels]) -> Scores:
        """See `ImageClassifier`."""
        found = np.empty((len(images), len(LABELS)), np.float32)
        with torch_threads(self._threads):
            faces = self.faces(images)
            crops = [
                images[index][box.top : box.top + box.height, box.left : box.left + box.width]
                for index, boxes in enumerate(faces)
                for box in boxes
            ]
            youths = iter(youth(self.ages(crops)))
        for index, boxes in enumerate(faces):
            confidence = np.array([box.confidence for box in boxes])
            own = np.array([next(youths) for _ in boxes])
            young = np.minimum(confidence / SURE, 1) * own
            found[index] = confidence[0], own[0], young.max()  # keeps NaN
        return {label: found[:, index].copy() for index, label in enumerate(LABELS)}

    def faces(self, images: Sequence[Pixels]) -> list[list[Box]]:
        """The boxes of each picture, the strongest first; there is always one."""
        raw = _by_batches(
            lambda part: _detect(self._detector, _squares(part, _SIDE, _MEAN, centred=False)),
            images,
        )
        return [_boxes(one, image) for one, image in zip(raw, images, strict=True)]

    def ages(self, faces: Sequence[Pixels]) -> NDArray[np.float64]:
        """Apparent age in years [N] of pictures that are cut to a face."""
        net = _FACE_SIDE, _FACE_MEAN
        found = _by_batches(lambda part: _ages(self._ages, _squares(part, *net, True)), faces)
        return np.array(found, np.float64)


def youth(ages: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores [N] in [0, 0.98] of ages in years; NaN stays."""
    return MOST * np.clip(1 - ages / OLDEST, 0, 1)


_BLANK = np.zeros((8, 8, 3), np.uint8)


def _by_batches(
    run: Callable[[Sequence[Pixels]], NDArray[np.float32]], images: Sequence[Pixels]
) -> list[NDArray[np.float32]]:
    """What `run` says of each; its batches are always whole, so that no score depends on others."""
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(images), BATCH):
        part = list(images[start : start + BATCH])
        found += list(run(part + part[-1:] * (BATCH - len(part))))[: len(part)]
    return found


def _tensors(manifest: list[Mapping[str, object]], data: bytes) -> Params:
    """Parameters as torch has them: kernels [out, in, H, W], depthwise [channels, 1, H, W]."""
    import torch

    found: Params = {}
    for name, values in unpacked(manifest, data).items():
        tensor = torch.from_numpy(values)
        if tensor.dim() == 4:
            depthwise = name.endswith("depthwise_filter")
            tensor = tensor.permute(2, 3, 0, 1) if depthwise else tensor.permute(3, 2, 0, 1)
        found[name] = tensor.contiguous()
    return found


def _squares(
    images: Sequence[Pixels], side: int, mean: Sequence[float], centred: bool
) -> "torch.Tensor":
    """Pictures as float32 [N, 3, side, side]: padded with black, sampled as TensorFlow.js does.

    Pictures of more than twice the side are first averaged down: single samples would miss much.
    """
    import torch
    from PIL import Image

    found = []
    for image in images:
        factor = max(image.shape[:2]) // (2 * side)
        if factor > 1:
            image = np.asarray(Image.fromarray(image).reduce(factor))
        height, width = image.shape[:2]
        gaps = (max(height, width) - height, max(height, width) - width)
        after = [(gap + 1) // 2 if centred else gap for gap in gaps]
        before = [gap - end for gap, end in zip(gaps, after, strict=True)]
        padded = np.pad(image, (*zip(before, after, strict=True), (0, 0)))
        found.append((_sampled(padded, side) - np.array(mean, np.float32)) / np.float32(255))
    return torch.from_numpy(np.stack(found).astype(np.float32)).permute(0, 3, 1, 2)


def _sampled(image: Pixels, side: int) -> NDArray[np.float32]:
    """A square picture at another size, float32: bilinear from the corner, not from the centres."""
    size = len(image)
    place = np.arange(side, dtype=np.float32) * np.float32(size / side)
    low = place.astype(int)
    high, part = np.minimum(low + 1, size - 1), (place - low).astype(np.float32)
    rows = _between(image[low], image[high], part[:, None, None])
    return _between(rows[:, low], rows[:, high], part[:, None])


def _between(
    low: NDArray[np.generic], high: NDArray[np.generic], part: NDArray[np.float32]
) -> NDArray[np.float32]:
    first = low.astype(np.float32)
    return first + (high.astype(np.float32) - first) * part


def _detect(params: Params, x: "torch.Tensor") -> NDArray[np.float32]:
    """The tiny detector's raw boxes [N, cells, cells, anchors, 5] of [N, 3, 416, 416]."""
    import torch
    from torch.nn.functional import conv2d, leaky_relu, max_pool2d, pad

    with torch.inference_mode():
        x = conv2d(x, params["conv0/filters"], params["conv0/bias"])
        for number in range(1, 6):  # pooled before the rectifier, which keeps the order: it is less
            x = leaky_relu(max_pool2d(x, 2, ceil_mode=True), 0.1)
            x = _separable(params, f"conv{number}", x)
        x = leaky_relu(max_pool2d(pad(x, (0, 1, 0, 1), value=-torch.inf), 2, stride=1), 0.1)
        x = conv2d(x, params["conv8/filters"], params["conv8/bias"])
        x = x.permute(0, 2, 3, 1).reshape(len(x), _CELLS, _CELLS, _ANCHORS, 5)
    found: NDArray[np.float32] = x.numpy()
    return found


def _ages(params: Params, x: "torch.Tensor") -> NDArray[np.float32]:
    """Apparent ages [N] of faces [N, 3, 112, 112]: a small Xception with two middle blocks."""
    import torch
    from torch.nn.functional import conv2d, linear, max_pool2d, pad, relu

    def reduced(name: str, x: torch.Tensor, first: bool = False) -> torch.Tensor:
        beside = conv2d(
            x,
            params[f"{name}/expansion_conv/filters"],
            params[f"{name}/expansion_conv/bias"],
            stride=2,
        )
        x = _separable(params, f"{name}/separable_conv0", x if first else relu(x))
        x = _separable(params, f"{name}/separable_conv1", relu(x))
        return max_pool2d(pad(x, (0, 1, 0, 1), value=-torch.inf), 3, stride=2) + beside

    with torch.inference_mode():
        start = "entry_flow/conv_in"
        x = pad(x, (0, 1, 0, 1))
        x = relu(conv2d(x, params[f"{start}/filters"], params[f"{start}/bias"], stride=2))
        x = reduced("entry_flow/reduction_block_0", x, first=True)
        x = reduced("entry_flow/reduction_block_1", x)
        for block in range(2):
            inner = x
            for number in range(3):
                name = f"middle_flow/main_block_{block}/separable_conv{number}"
                inner = _separable(params, name, relu(inner))
            x = inner + x
        x = reduced("exit_flow/reduction_block", x)
        x = relu(_separable(params, "exit_flow/separable_conv", x)).mean((2, 3))
        ages = linear(x, params["fc/age/weights"].T, params["fc/age/bias"])[:, 0]
    found: NDArray[np.float32] = ages.numpy()
    return found


def _separable(params: Params, name: str, x: "torch.Tensor") -> "torch.Tensor":
    from torch.nn.functional import conv2d

    depthwise = params[f"{name}/depthwise_filter"]
    x = conv2d(x, depthwise, padding=1, groups=len(depthwise))
    return conv2d(x, params[f"{name}/pointwise_filter"], params[f"{name}/bias"])


def _boxes(raw: NDArray[np.float32], image: Pixels) -> list[Box]:
    """The strongest box, and all others that are strong enough and lie elsewhere, within it.

    Raises:
        ValueError: the detector gives no numbers.
    """
    values = raw.reshape(-1, 5).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the face detector gives no numbers")
    height, width = image.shape[:2]
    scale = _SIDE / max(height, width)  # the picture fills so much of the square
    fills = np.maximum(np.floor(np.array([width, height]) * scale + 0.5), 1) / _SIDE
    confidence, inner = _sigmoid(values[:, 4]), _sigmoid(values[:, :2])
    rows, columns = np.indices((_CELLS, _CELLS, _ANCHORS))[:2].reshape(2, -1)
    centre = (np.stack([columns, rows], 1) + inner) / _CELLS / fills
    with np.errstate(over="ignore"):
        size = np.exp(values[:, 2:4]) * np.tile(_ANCHOR_SIZES, (_CELLS**2, 1)) / _CELLS / fills
    size = np.minimum(size, 4)  # of the picture: what is larger is cut off all the same
    corners = np.concatenate([centre - size / 2, centre + size / 2], 1)
    order = np.argsort(-confidence, kind="stable")
    kept: list[int] = []
    for index in order[: max(int((confidence >= _WEAKEST).sum()), 1)]:
        if len(kept) == _FACES:
            break
        if all(_overlap(corners[index], corners[other]) <= _OVERLAP for other in kept):
            kept.append(int(index))
    return [_cut(float(confidence[index]), corners[index], width, height) for index in kept]


def _cut(confidence: float, corners: NDArray[np.float64], width: int, height: int) -> Box:
    """A box in whole pixels, within the picture and of one pixel at least."""
    sides = (width, height)
    low = [min(max(float(corners[n]) * sides[n], 0.0), sides[n] - 1) for n in (0, 1)]
    high = [min(max(float(corners[n + 2]) * sides[n], 0.0), sides[n]) for n in (0, 1)]
    size = [max(int(high[n] - low[n]), 1) for n in (0, 1)]
    return Box(confidence, int(low[0]), int(low[1]), *size)


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    areas = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]))
    return shared / max(areas - shared, 1e-12)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(values, -60, 60)))


load = FaceApiAge
