"""Pictures below a prefix of a bucket: `s3://bucket/prefix`, read where they lie.

Named and labelled as files of a folder are. Every object is an item or is skipped with its reason;
what is planned is what was listed, told by size and etag. Endpoint and credentials are those of the
AWS_* variables; nothing is ever written there.
"""

import hashlib
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field, field_validator

from kontext.data.layouts.base import JUNK_FILES, JUNK_FOLDERS, LARGEST
from kontext.data.layouts.bucket_object import BucketObject, bucket
from kontext.data.sources.base import Planned, Skipped, SourceItem
from kontext.data.sources.folder import concept_of, parse_stem
from kontext.data.sources.labelled import with_instructions
from kontext.errors import SourceError, StoreError
from schemas.sections.sources import PathSource

ATTRIBUTION = ""  # the recipe names author and licence
SCHEME = "s3://"


class BucketSource(PathSource):
    """Pictures below a prefix of a bucket. Sub-folder = group; `stem__attr=value` sets labels."""

    kind: Literal["bucket"] = "bucket"
    license_spdx: str = Field("LicenseRef-unknown", title="Licence (SPDX id)")
    author: str = Field("unknown", title="Author")

    @field_validator("path")
    @classmethod
    def _a_bucket(cls, path: str) -> str:
        if not path.startswith(SCHEME) or not path.removeprefix(SCHEME).strip("/"):
            raise ValueError(f"'{path}' is not of the form s3://bucket/prefix")
        return path.rstrip("/")


def plan(config: BucketSource) -> list[SourceItem]:
    """One item per object, in key order. Raises SourceError as `read` does."""
    return read(config).items


def read(config: BucketSource) -> Planned:
    """Every object an item, in key order, or skipped with its reason.

    Raises:
        SourceError: the bucket cannot be listed, or nothing is below the prefix.
    """
    items, skipped = [], []
    source = f"bucket:{PurePosixPath(config.path).name}"
    for one in _listed(config):
        reason = _unread(one)
        if reason:
            skipped.append(Skipped(source, one.key, reason))
        else:
            items.append(_item(source, one, config))
    if not items:
        raise SourceError(f"nothing is below {config.path}")
    names = {item.ref: parse_stem(PurePosixPath(item.ref).stem)[0] for item in items}
    return with_instructions(items, names, skipped)


def identity(config: BucketSource) -> str:
    """A digest of what lies below the prefix: keys, sizes and etags. Raises SourceError."""
    found = hashlib.sha256()
    for one in _listed(config):
        found.update(f"{one.key}\0{one.size}\0{one.etag}\n".encode())
    return found.hexdigest()


def _listed(config: BucketSource) -> list[BucketObject]:
    try:
        objects = bucket(config.path).list_info()
    except StoreError as error:
        raise SourceError(f"{config.path}: {error}") from error
    return [BucketObject(config.path, info.key, info.etag, info.size) for info in objects]


def _unread(one: BucketObject) -> str:
    """Why an object is not read, or ""."""
    parts = one.key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "name_outside"
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if {*JUNK_FOLDERS, *JUNK_FILES} & set(parts):
        return "junk"
    return "too_many_bytes" if one.size > LARGEST else ""


def _item(source: str, one: BucketObject, config: BucketSource) -> SourceItem:
    path = PurePosixPath(one.key)
    name, labels = parse_stem(path.stem)
    group = path.parent.as_posix() if path.parent != PurePosixPath() else name
    return SourceItem(
        source=source,
        ref=one.key,
        group_key=f"{source}:{group}",
        concept=concept_of(name),
        license_spdx=config.license_spdx,
        author=config.author,
        attributes=labels,
        part=one,
        series=f"{source}/{path.parent.as_posix()}",
    )
