"""The stages: one file each, with its `STAGE` declaration and `run(ctx)`.

A new stage is one file here. The graph is read from the declarations (`kontext.graph`); importing
this package imports no stage.
"""

from __future__ import annotations

from pathlib import Path

from kontext.graph import discover
from kontext.stage import Stage

STAGES: dict[str, Stage] = discover(__name__, Path(__file__).parent)
