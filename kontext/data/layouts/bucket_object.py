"""A picture that is an object of a bucket."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kontext.errors import ChangedError, ObjectExists, SourceError, StoreError, TooLargeError

if TYPE_CHECKING:
    from kontext.store.objects.s3 import S3Store


@dataclass(frozen=True)
class BucketObject:
    """One object, as it was when it was listed: `etag` changes when its bytes do."""

    url: str  # s3://bucket/prefix
    key: str  # below it
    etag: str
    size: int

    def read(self, limit: int) -> bytes:
        """The bytes. Raises SourceError, or ChangedError where it is another object by now."""
        if self.size > limit:
            raise TooLargeError(f"{self.key}: {self.size:,} bytes, limit {limit:,}")
        try:
            return bucket(self.url).get_as(self.key, self.etag)
        except ObjectExists as error:
            raise ChangedError(
                f"{self.key} was changed since it was listed: run it again"
            ) from error
        except StoreError as error:
            raise SourceError(f"{self.key}: {error}") from error


@lru_cache(maxsize=8)
def bucket(url: str) -> "S3Store":
    """The bucket of `s3://bucket/prefix`, read only. Raises StoreError."""
    from kontext.store.objects.s3 import S3Store  # here, because a folder needs no boto3

    name, _, prefix = url.removeprefix("s3://").partition("/")
    return S3Store(name, prefix.strip("/"), read_only=True)
