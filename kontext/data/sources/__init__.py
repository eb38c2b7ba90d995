"""Image sources: each plans its items deterministically.

To add a source, write one file here: a settings class (`SourceConfig` with its own `kind`), `plan`
and `ATTRIBUTION`. It must import heavy packages inside its functions, because every recipe imports
it. May import kontext.errors and schemas.
"""

from importlib import import_module

from kontext.data.sources.base import SourceItem
from schemas.sections.data import IngestConfig
from schemas.sections.sources import SourceConfig


def plan(config: SourceConfig) -> list[SourceItem]:
    """All items of the source `config` describes, in a stable order.

    Raises:
        SourceError: the source's files are missing or unreadable.
    """
    items: list[SourceItem] = import_module(type(config).__module__).plan(config)
    return items


def modules_named(config: IngestConfig) -> list[str]:
    """Modules of the plug-ins that the section names."""
    return [type(source).__module__ for source in config.sources]
