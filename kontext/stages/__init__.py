"""The twelve stages, one file each, and nothing else.

A stage is handed its own recipe section and its input artifacts; it writes one artifact. To add
one, write one file with a literal `STAGE = Stage(...)`, `run(ctx)` and, where it has settings, the
class `Settings(Section)`. A file with settings imports what is heavy inside functions, because
every recipe looks into it. The graph is discovered from these files (`kontext.engine.graph`).
"""

from pathlib import Path

from kontext.engine.graph import discover
from kontext.engine.stage import Stage

STAGES: dict[str, Stage] = discover(__name__, Path(__file__).parent)
