"""A picture that has an address on the web."""

import re
from dataclasses import dataclass

from kontext.errors import SourceError

_ADDRESS = re.compile(r"^\s*https?://\S", re.IGNORECASE)


@dataclass(frozen=True)
class WebPicture:
    """A picture that is fetched when it is ingested."""

    url: str

    def read(self, limit: int) -> bytes:
        """Raises SourceError: only stage ingest asks, politely and behind its guard."""
        raise SourceError(f"{self.url} is not here: stage ingest fetches it")


def is_address(value: object) -> bool:
    """Whether a cell is an address that may be fetched."""
    return isinstance(value, str) and _ADDRESS.match(value) is not None
