"""Reading Iconify icon sets from `node_modules/@iconify-json`."""

import json
import re
from dataclasses import dataclass
from functools import cache

from kontext.errors import SourceError
from schemas.paths import node_modules

# librsvg draws the first frame of SMIL animations; rain, snow and hail start invisible there.
_SMIL = re.compile(r"<animate[^>]*?(/>|>.*?</animate\w*>)", re.DOTALL)
_HIDDEN = re.compile(r'\s(?:stroke-|fill-)?opacity="0"')


@dataclass(frozen=True)
class IconSet:
    """One icon set: names to SVG bodies, and whose it is."""

    prefix: str
    bodies: dict[str, str]
    boxes: dict[str, tuple[float, float]]
    characters: dict[str, str]  # code points "1f3fb-200d-…" -> icon name; empty for some sets
    author: str
    license_spdx: str

    def svg(self, name: str) -> bytes:
        """A complete SVG document of one icon, with animations stripped."""
        width, height = self.boxes[name]
        body = _HIDDEN.sub("", _SMIL.sub("", self.bodies[name]))
        head = (
            '<svg xmlns="http://www.w3.org/2000/svg" '
            'xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}">'
        )
        return f"{head}{body}</svg>".encode()


def available() -> bool:
    """Whether the npm images are installed."""
    return (node_modules() / "@iconify-json").is_dir()


@cache
def load_icon_set(prefix: str) -> IconSet:
    """Read one icon set. Raises SourceError if the npm package is not installed."""
    folder = node_modules() / "@iconify-json" / prefix
    try:
        icons = json.loads((folder / "icons.json").read_text())
        info = json.loads((folder / "info.json").read_text())
    except OSError as error:
        raise SourceError(
            f"icon set '{prefix}' is not installed under {folder.parent}: run `npm install`"
        ) from error
    chars_file = folder / "chars.json"
    chars = json.loads(chars_file.read_text()) if chars_file.exists() else {}
    side = (float(icons.get("width", 16)), float(icons.get("height", 16)))
    return IconSet(
        prefix=prefix,
        bodies={name: icon["body"] for name, icon in icons["icons"].items()},
        boxes={
            name: (float(icon.get("width", side[0])), float(icon.get("height", side[1])))
            for name, icon in icons["icons"].items()
        },
        characters=chars,
        author=str(info.get("author", {}).get("name", "unknown")),
        license_spdx=str(info.get("license", {}).get("spdx", "LicenseRef-unknown")),
    )
