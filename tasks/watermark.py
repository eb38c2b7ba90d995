"""How far a dataset's refreshes have come: one small object per dataset, read before each refresh.

A refresh brings everything up to the moment it starts to read. So whatever was due before that
moment has been caught up, and a late run has nothing left to do.
"""

import contextlib
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from kontext.errors import ObjectExists, ObjectNotFound
from kontext.store.objects import ObjectStore


class Watermark(BaseModel):
    """The last refresh of a dataset that ended well."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    started: datetime  # when it began to read the sources
    finished: datetime
    ingest: str  # digest: covers the sources' contents
    index: str
    version: int  # dataset version

    def covers(self, due: datetime) -> bool:
        """Whether a refresh that was due then would find nothing that this one did not see."""
        return self.started >= due


def read_watermark(objects: ObjectStore, dataset: str) -> Watermark | None:
    """The dataset's watermark, or None before its first refresh."""
    try:
        return Watermark.model_validate_json(objects.get(_key(dataset)))
    except ObjectNotFound:
        return None


def write_watermark(objects: ObjectStore, mark: Watermark) -> Watermark:
    """Move the mark, never backwards; returns the mark that stands."""
    data = mark.model_dump_json(indent=1).encode()
    while True:
        before, etag = None, None
        with contextlib.suppress(ObjectNotFound):
            found, etag = objects.get_with_etag(_key(mark.dataset))
            before = Watermark.model_validate_json(found)
        if before is not None and before.started > mark.started:
            return before
        with contextlib.suppress(ObjectExists):  # somebody else moved it: look again
            objects.replace_if(_key(mark.dataset), data, etag)
            return mark


def now() -> datetime:
    """UTC, with its zone."""
    return datetime.now(UTC)


def _key(dataset: str) -> str:
    return f"refresh/{dataset}.json"
