"""Pictures in a terminal, two pixels to a character. A pipe gets none, nor does a poor terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_COLUMNS = 48  # of one picture, at most
_GAP = 2


def pictures(pngs: Mapping[str, bytes], console: Console | None = None) -> None:
    """Draw PNGs beside each other, each below its name, where the terminal can."""
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    if not can_draw(console):
        return
    columns = min(_COLUMNS, console.width // len(pngs) - _GAP)
    grid = Table.grid(*pngs, padding=(0, _GAP, 0, 0))
    grid.add_row(*pngs)
    grid.add_row(*(half_blocks(png, columns) for png in pngs.values()))
    console.print(grid)


def can_draw(console: Console) -> bool:
    """Whether this is a terminal (whatever FORCE_COLOR says) with 256 colours and Unicode."""
    return (
        console.file.isatty()
        and not console.no_color
        and console.color_system in ("256", "truecolor", "windows")
        and console.encoding.startswith("utf")
        and console.width >= 40
    )


def half_blocks(png: bytes, columns: int) -> Text:
    """The picture in `columns` characters a line: each is an upper pixel on a lower one."""
    import numpy as np
    from PIL import Image
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    with Image.open(io.BytesIO(png)) as opened:
        rows = max(1, round(opened.height * columns / opened.width / 2))
        small = opened.convert("RGB").resize((columns, 2 * rows), Image.Resampling.BOX)
    lines = np.asarray(small).tolist()
    text = Text(no_wrap=True)
    for row in range(rows):
        text.append("\n" if row else "")
        for upper, lower in zip(lines[2 * row], lines[2 * row + 1], strict=True):
            text.append("▀", Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))
    return text
