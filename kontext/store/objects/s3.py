"""`s3://` stores by boto3: AWS, SeaweedFS, MinIO, Ceph, anything that honours If-None-Match.

    s3://bucket/prefix                      conditional puts required, and tried when it is opened
    s3://bucket/prefix?writers=one-host     for a server without them: all writers on one machine

Uploads carry a CRC that the server checks (botocore's default), files above 8 MiB go in parallel
parts, requests are repeated with full jitter (AWS_MAX_ATTEMPTS), answers that break off are asked
for again from where they broke.
"""

import builtins
import hashlib
import logging
import os
import random
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from filelock import FileLock
from urllib3.exceptions import ProtocolError

from kontext.errors import KontextError, ObjectExists, ObjectNotFound, StoreError
from kontext.store.objects.object_store import ObjectInfo, ObjectStore, check_key
from kontext.store.objects.s3_errors import OutOfRange, translate

_LOG = logging.getLogger("kontext.store")
_READS = 5  # times an answer may break off in the middle
_ATTEMPTS = 8  # with full jitter about 35 s: a server may restart meanwhile
_PART = 8 << 20  # bytes; files above are uploaded in parts
_COPY = TransferConfig(multipart_threshold=4 << 30, multipart_chunksize=1 << 30)
_THREADS = 4  # parts in flight
_BROKEN = (HTTPClientError, IncompleteReadError, ProtocolError)
_CONDITIONAL: dict[tuple[str | None, str], bool | None] = {}  # (endpoint, bucket): as tried
_CONDITIONAL_LOCK = threading.Lock()


class S3Store(ObjectStore):
    """Objects below one prefix of one bucket."""

    def __init__(
        self, bucket: str, prefix: str = "", *, one_host: bool = False, read_only: bool = False
    ) -> None:
        """With `read_only` nothing is made or tried in the bucket, which is somebody's own."""
        if not bucket:
            raise StoreError("an s3 store needs a bucket: s3://bucket/prefix")
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self.endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self._region = (
            os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        )
        self._transfer = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART)
        with self._errors():
            self._client = self._connect()
            if not read_only:
                self._open_bucket()
        if read_only:
            self._one_host = False
            return
        self._one_host = one_host and self._probe() is False
        if one_host:
            self.url += "?writers=one-host"
        elif self._probe() is False:
            self._refuse()
        if self._one_host:
            _LOG.warning(
                "%s ignores If-None-Match: safe for writers on this machine only", self.url
            )

    def _connect(self) -> Any:
        attempts = {} if os.environ.get("AWS_MAX_ATTEMPTS") else {"total_max_attempts": _ATTEMPTS}
        # the default session would keep the first credentials it has seen
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint or None,
            region_name=self._region,
            config=Config(
                # standard mode: exponential back-off with full jitter
                retries={"mode": "standard", **attempts},
                connect_timeout=5,
                read_timeout=60,
                max_pool_connections=32,
                s3={"addressing_style": "path" if self.endpoint else "auto"},
            ),
        )

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """See `ObjectStore`."""
        if length == 0:
            self.size(key)  # which raises where there is no such object
            return b""
        return b"".join(self.stream(key, start, length))

    def get_as(self, key: str, etag: str) -> bytes:
        """The object, if it is still the one of that etag. Raises ObjectExists where not."""
        with self._errors(key):
            name = self._name(key)
            answer = self._client.get_object(Bucket=self.bucket, Key=name, IfMatch=etag)
            data: bytes = answer["Body"].read()
            return data

    def stream(
        self, key: str, start: int = 0, length: int | None = None, part: int = _PART
    ) -> Iterator[bytes]:
        """One request whose body is read as it is wanted; botocore does not repeat a broken one.

        After a break it goes on where it was, if the object is still the same.
        """
        target: dict[str, Any] = {"Bucket": self.bucket, "Key": self._name(key)}
        got = broken = 0
        while length is None or got < length:
            if start or got or length is not None:
                end = "" if length is None else str(start + length - 1)
                target["Range"] = f"bytes={start + got}-{end}"
            try:
                with self._errors(key):
                    answer = self._client.get_object(**target)
                    target["IfMatch"] = answer["ETag"]
                    for data in answer["Body"].iter_chunks(part):
                        got += len(data)
                        yield data
                return
            except OutOfRange:
                return
            except ObjectExists as error:  # IfMatch: it is another object by now
                raise StoreError(f"'{key}' in {self.url} changed while it was read") from error
            except StoreError as error:
                broken += 1
                if not isinstance(error.__cause__, _BROKEN) or broken == _READS:
                    raise
                time.sleep(0.1 * 2**broken * random.random())

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> str:
        """See `ObjectStore`."""
        return self._put(key, data, {"IfNoneMatch": "*"} if if_absent else {})

    def put_file(self, key: str, path: Path, *, if_absent: bool = False) -> str:
        """See `ObjectStore`."""
        try:
            if path.stat().st_size <= _PART:
                return self.put(key, path.read_bytes(), if_absent=if_absent)
            condition = {"IfNoneMatch": "*"} if if_absent else {}
            return self._conditioned(key, condition, lambda given: self._parts(key, path, given))
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error

    def replace_if(self, key: str, data: bytes, etag: str | None) -> str:
        """See `ObjectStore`."""
        return self._put(key, data, {"IfMatch": etag} if etag else {"IfNoneMatch": "*"})

    def info(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore`."""
        try:
            with self._errors(key):
                head = self._client.head_object(Bucket=self.bucket, Key=self._name(key))
        except ObjectNotFound:
            return None
        return ObjectInfo(key, head["ContentLength"], head["ETag"], head["LastModified"])

    def list_info(self, prefix: str = "") -> list[ObjectInfo]:
        """See `ObjectStore`."""
        with self._errors():
            found = [
                ObjectInfo(i["Key"][len(self.prefix) :], i["Size"], i["ETag"], i["LastModified"])
                for i in self._listed("list_objects_v2", "Contents", prefix)
                if not i["Key"].endswith("/")
            ]
        return sorted(found, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        with self._errors():
            self._client.delete_object(Bucket=self.bucket, Key=self._name(key))

    def copy(self, key: str, to: str) -> None:
        """See `ObjectStore`. The server copies: one request for each 4 GiB."""
        source = {"Bucket": self.bucket, "Key": self._name(key)}
        with self._errors(key):
            self._client.copy(source, self.bucket, self._name(to), Config=_COPY)

    def clear_unfinished(self, before: datetime, *, dry_run: bool) -> int:
        """See `ObjectStore`."""
        with self._errors():
            uploads = self._listed("list_multipart_uploads", "Uploads")
            old = [upload for upload in uploads if upload["Initiated"] < before]
            for upload in () if dry_run else old:
                self._client.abort_multipart_upload(
                    Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
        return len(old)

    @property
    def supports_conditional_puts(self) -> bool:
        """Tried once: a put with If-None-Match of a name that is there must be refused."""
        found = self._probe()
        if found is None:
            raise StoreError(f"{self.url} may not be written with these credentials")
        return found

    def _probe(self) -> bool | None:
        """Whether conditions hold here; None where nothing may be written."""
        place = (self.endpoint, self.bucket)
        with _CONDITIONAL_LOCK:
            if _CONDITIONAL.get(place) is None:
                _CONDITIONAL[place] = self._try_conditions()
            return _CONDITIONAL[place]

    def _try_conditions(self) -> bool | None:
        name = f"{self.prefix}.probe/{uuid.uuid4().hex}"
        request = {"Bucket": self.bucket, "Key": name, "Body": b""}
        with self._errors():
            try:
                self._client.put_object(**request)
            except ClientError as error:
                if error.response["Error"]["Code"] in {"AccessDenied", "403"}:
                    return None  # reading is still possible
                raise
        try:
            with self._errors(name):
                self._client.put_object(**request, IfNoneMatch="*")
            return False
        except ObjectExists:
            return True
        finally:
            with self._errors():
                self._client.delete_object(Bucket=self.bucket, Key=name)

    def _fetch(self, key: str, path: Path) -> None:
        with self._errors(key):
            self._client.download_file(
                self.bucket, self._name(key), str(path), Config=self._transfer
            )

    def _put(self, key: str, data: bytes, condition: dict[str, str]) -> str:
        request = {"Bucket": self.bucket, "Key": self._name(key), "Body": data}

        def send(given: dict[str, str]) -> str:
            with self._errors(key):
                return str(self._client.put_object(**request, **given)["ETag"])

        try:
            return self._conditioned(key, condition, send)
        except ObjectExists as error:
            # A put whose answer got lost is retried by botocore and then meets its own object.
            cause: Any = error.__cause__
            answer = cause.response["ResponseMetadata"] if isinstance(cause, ClientError) else {}
            retried = answer.get("RetryAttempts", 0)
            if retried and (found := self.info(key)) and self.get(key) == data:
                return found.etag
            raise

    def _conditioned(
        self, key: str, condition: dict[str, str], send: Callable[[dict[str, str]], str]
    ) -> str:
        """Send with the condition, or check it under this machine's lock where S3 cannot."""
        if condition and not self._one_host and not self.supports_conditional_puts:
            self._refuse()
        if not condition or not self._one_host:
            return send(condition)
        name = hashlib.sha256(f"{self.endpoint} {self.url}".encode()).hexdigest()[:16]
        with FileLock(Path(tempfile.gettempdir(), f"kontext-{os.getuid()}-{name}.lock")):
            found = self.info(key)
            if (found.etag if found else None) != condition.get("IfMatch"):
                raise ObjectExists(f"'{key}' is already in {self.url}")
            return send({})

    def _parts(self, key: str, path: Path, condition: dict[str, str]) -> str:
        """Multipart upload, parts in parallel, completed under the condition."""
        target = {"Bucket": self.bucket, "Key": self._name(key)}
        with self._errors(key):
            begun = self._client.create_multipart_upload(**target)
            upload = {**target, "UploadId": begun["UploadId"]}
            numbers = range(1, 1 + -(-path.stat().st_size // _PART))

            def send(number: int) -> dict[str, Any]:
                with path.open("rb") as file:
                    file.seek((number - 1) * _PART)
                    data = file.read(_PART)
                part = self._client.upload_part(**upload, PartNumber=number, Body=data)
                sums = {name: part[name] for name in part if name.startswith("Checksum")}
                sums.pop("ChecksumType", None)
                return {"PartNumber": number, "ETag": part["ETag"], **sums}

            try:
                with ThreadPoolExecutor(_THREADS) as pool:
                    parts = builtins.list(pool.map(send, numbers))
                done = self._client.complete_multipart_upload(
                    **upload, MultipartUpload={"Parts": parts}, **condition
                )
            except BaseException:
                self._client.abort_multipart_upload(**upload)
                raise
            return str(done["ETag"])

    def _refuse(self) -> None:
        raise StoreError(
            f"{self.url} ignores If-None-Match, so two runs could overwrite each other: use a "
            "server that honours conditional puts (AWS S3, SeaweedFS, MinIO, Ceph), or add "
            "?writers=one-host if all writers run on one machine"
        )

    def _listed(self, call: str, part: str, prefix: str = "") -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator(call).paginate(
            Bucket=self.bucket, Prefix=self.prefix + prefix
        )
        return (item for page in pages for item in page.get(part, ()))

    def _name(self, key: str) -> str:
        return self.prefix + check_key(key)

    def _open_bucket(self) -> None:
        try:
            self._client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"404", "NoSuchBucket"}:
                raise
            try:
                self._client.create_bucket(Bucket=self.bucket)
            except ClientError as refused:
                code = refused.response["Error"]["Code"]
                if code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                    raise StoreError(
                        f"bucket '{self.bucket}' does not exist and may not be created ({code})"
                    ) from refused

    @contextmanager
    def _errors(self, key: str = "") -> Iterator[None]:
        where = self.endpoint or "AWS"
        try:
            yield
        except KontextError:
            raise
        except ClientError as error:
            raise translate(error, key, self.url, where, self._region) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreError(
                f"no credentials for {self.url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        # ValueError is botocore's for a malformed endpoint or bucket name
        except (BotoCoreError, boto3.exceptions.Boto3Error, ProtocolError, ValueError) as error:
            cause: Any = error.__context__
            if isinstance(cause, ClientError):  # s3transfer wraps the server's answer
                raise translate(cause, key, self.url, where, self._region) from cause
            raise StoreError(f"cannot use {self.url} at {where}: {error}") from error
