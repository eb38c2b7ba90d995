"""Object stores: named bytes in a `file://` folder or an `s3://` bucket, with conditional puts.

`open_store(url)` is the way in. A new kind of store is one file that implements `ObjectStore`, and
one line in `open_store`. Imports `errors` only.
"""

from pathlib import Path

from kontext.errors import StoreError
from kontext.store.objects.local import LocalStore
from kontext.store.objects.object_store import ObjectInfo, ObjectStore, sha256_file


def open_store(url: str) -> ObjectStore:
    """Open `file://folder` (a plain path is fine) or `s3://bucket/prefix`.

    S3 takes endpoint, region and credentials from AWS_* variables and creates a missing bucket if
    it may. A server without conditional puts is refused, unless the URL ends in
    `?writers=one-host`: then a lock of this machine stands in for them.

    Raises StoreError: unknown scheme, unusable folder, wrong credentials, bucket or endpoint.
    """
    scheme, sep, rest = url.partition("://")
    if not sep:
        return LocalStore(Path(url))
    if scheme == "file":
        return LocalStore(Path(rest))
    if scheme == "s3":
        from kontext.store.objects.s3 import S3Store  # here, because a folder needs no boto3

        place, _, option = rest.partition("?")
        if option not in ("", "writers=one-host"):
            raise StoreError(f"store '{url}': unknown option '{option}' (writers=one-host)")
        bucket, _, prefix = place.partition("/")
        return S3Store(bucket, prefix.strip("/"), one_host=bool(option))
    raise StoreError(f"store '{url}': unknown scheme '{scheme}' (file:// and s3:// are known)")


def folder_url(url: str, folder: str) -> str:
    """The URL of a folder in a store, with a closing slash and without the store's options."""
    return f"{url.partition('?')[0].rstrip('/')}/{folder}/"


__all__ = ["ObjectInfo", "ObjectStore", "folder_url", "open_store", "sha256_file"]
