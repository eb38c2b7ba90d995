"""A file of `threatexchange`: one signal a line, `pdq HASH` or `video_md5 HASH`."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from kontext.safety.exchanges.base import Delta, ExchangeSettings

CHANGES_RESULTS = False

ENVIRONMENT = ""
_TYPES = {"video_md5": "md5"}


class Settings(ExchangeSettings):
    """The file, and the type of lines that name none."""

    kind: Literal["local-file"] = "local-file"
    path: str  # relative ones are seen from the home
    signal_type: str = ""


def deltas(settings: Settings, credentials: str, since: str) -> Iterator[Delta]:
    """The whole file, dated as it was last written."""
    from threatexchange.exchanges.impl.file_api import (
        FileCollaborationConfig,
        LocalFileSignalExchangeAPI,
    )

    path = Path(settings.path).expanduser()
    written = dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC).date()
    config = FileCollaborationConfig(
        filename=str(path), signal_type=settings.signal_type or None, name="kontext"
    )
    for found in LocalFileSignalExchangeAPI.for_collab(config).fetch_iter([], None):
        records = {
            f"{kind} {value}": [(_TYPES.get(kind, kind), value)] for kind, value in found.updates
        }
        yield Delta(records, whole=True, dated=written.isoformat())
