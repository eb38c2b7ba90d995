"""How many pictures the gate no longer knows behind a border: `python -m tests.safety.borders`."""

import io

import numpy as np
from PIL import Image

from kontext.safety.pdq import MAX_DISTANCE, distances, pdq_dihedral, without_borders
from tests.safety.test_hashes import picture


def compressed(rgb: np.ndarray, quality: int) -> np.ndarray:
    """As a JPEG of this quality shows it; 0: as it is."""
    if not quality:
        return rgb
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))


def main() -> None:
    """Print every miss, and how many there are of how many."""
    draw, missed, count = np.random.default_rng(0), 0, 0
    for side in (200, 300, 600):
        for seed in range(1, 8):
            own = pdq_dihedral(picture(seed, side))[0][0]
            for quality in (0, 90, 70, 50):
                top, bottom, left, right = draw.integers(0, 60, 4)
                grey = int(draw.choice([0, 20, 130, 255]))
                widths = (top, bottom), (left, right), (0, 0)
                framed = np.pad(picture(seed, side), widths, constant_values=grey)
                framed = compressed(framed, quality)
                views = (framed, *without_borders(framed))
                near = min(int(distances(pdq_dihedral(view)[0], own).min()) for view in views)
                count, missed = count + 1, missed + (near > MAX_DISTANCE)
                if near > MAX_DISTANCE:
                    print(f"{side} px, JPEG {quality}, border {widths[:2]} of {grey}: {near} bits")
    print(f"missed {missed} of {count}")


if __name__ == "__main__":
    main()
