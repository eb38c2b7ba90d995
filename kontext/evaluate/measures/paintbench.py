"""PaintBench's score: which pixels of an edit are right, where there is one exact answer."""

import numpy as np
from numpy.typing import NDArray

from kontext.evaluate.measures.base import Made, Measure, plain
from kontext.evaluate.metrics.base import Card
from kontext.evaluate.pixels import Picture

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_THRESHOLDS = range(11)  # of the colour difference, see `_iou`


def _iou(made: Made) -> float | None:
    """PaintBench's: right pixels of the edit ÷ (the edit and wrong pixels outside of it).

    A pixel is right where its colour is at most a threshold from the answer's, in CIE 1976; the
    mean over the thresholds from 0 to 10. The output is brought to the answer's size by nearest
    neighbours, and its middle is taken.
    """
    if made.target is None or made.context is None or made.context.shape != made.target.shape:
        return None
    edit = (made.context != made.target).any(axis=2)
    far = np.linalg.norm(_lab(_covering(made.output, made.target)) - _lab(made.target), axis=2)
    found = []
    for threshold in _THRESHOLDS:
        right = far <= threshold
        whole = edit.sum() + (~edit & ~right).sum()
        found.append((edit & right).sum() / whole if whole else 1.0)
    return float(np.mean(found))


def _covering(picture: Picture, like: Picture) -> Picture:
    """The middle of a picture, so large that it covers another one's size."""
    from PIL import Image

    (tall, wide), (height, width) = like.shape[:2], picture.shape[:2]
    if (tall, wide) == (height, width):
        return picture
    scale = max(wide / width, tall / height)
    size = (int(np.ceil(width * scale)), int(np.ceil(height * scale)))
    large = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))
    top, left = (size[1] - tall) // 2, (size[0] - wide) // 2
    return large[top : top + tall, left : left + wide]


_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65
_KINK = 6 / 29


def _lab(picture: Picture) -> NDArray[np.float64]:
    """CIE L*a*b* [H, W, 3] of sRGB."""
    values = picture / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ.T / _WHITE
    bent = np.where(xyz > _KINK**3, np.cbrt(xyz), xyz / (3 * _KINK**2) + 4 / 29)
    x, y, z = bent[..., 0], bent[..., 1], bent[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


MEASURES = {
    "iou": Measure(
        "mIoU",
        "%",
        "higher",
        "right pixels of the edit ÷ the edit and wrong pixels outside, over 11 thresholds",
        plain(
            _iou,
            Card(
                "kontext's own code",
                resize="the result to cover the answer's size, nearest neighbours (Pillow)",
                crop="its middle",
                range="CIE L*a*b*, D65",
            ),
        ),
    )
}
