"""Makes `npm.json`: what the npm packages' own models say of benign pictures, run by node.

    mkdir /tmp/npm && cd /tmp/npm && npm install --ignore-scripts --legacy-peer-deps \\
        nsfwjs@4.4.0 @vladmandic/face-api@1.7.15 @tensorflow/tfjs@4.22.0 \\
        @tensorflow/tfjs-backend-wasm@4.22.0
    python -m tests.safety.classifiers.golden /tmp/npm      # in the repository, some minutes
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
GOLDEN = HERE / "npm.json"


@cache
def pictures() -> dict[str, NDArray[np.uint8]]:
    """Benign pictures uint8 [H, W, 3]: plain, ramps, canaries, drawn faces and a photograph."""
    import matplotlib
    from PIL import Image, ImageDraw

    from kontext.safety.canaries import canary_image

    ramp = np.linspace(0, 255, 224).astype(np.uint8)
    found = {
        "grey": np.full((96, 96, 3), 128, np.uint8),
        "ramp": np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(90)), -1),
        "canary": np.asarray(canary_image(2)),
        "wide canary": np.asarray(canary_image(4).crop((0, 0, 240, 100))),
    }
    for name, skin in (("light face", (255, 205, 150)), ("dark face", (120, 75, 40))):
        face = Image.new("RGB", (200, 260), (255, 255, 255))
        draw = ImageDraw.Draw(face)
        draw.ellipse((30, 20, 170, 190), fill=skin)
        for x in (70, 115):
            draw.ellipse((x, 80, x + 16, 96), fill=(30, 30, 30))
        draw.arc((70, 110, 130, 160), 10, 170, fill=(150, 30, 30), width=6)
        found[name] = np.asarray(face)
    # Grace Hopper's portrait in uniform: matplotlib's sample picture, public domain
    sample = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    with Image.open(sample) as photo:
        found["portrait"] = np.asarray(photo.convert("RGB"))
    return {name: np.ascontiguousarray(image) for name, image in found.items()}


def main(packages: str) -> None:
    """Write the pictures as raw bytes, run node on them, and keep what it says."""
    with TemporaryDirectory() as folder:
        shapes = {}
        for number, (name, image) in enumerate(pictures().items()):
            (Path(folder) / f"{number}.rgb").write_bytes(image.tobytes())
            shapes[name] = image.shape[:2]
        (Path(folder) / "shapes.json").write_text(json.dumps(shapes))
        command = ["node", str(HERE / "golden.cjs"), packages, folder]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    GOLDEN.write_text(json.dumps(json.loads(said), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
