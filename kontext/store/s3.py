"""`s3://` stores by boto3: AWS, SeaweedFS, MinIO, Ceph, anything that honours If-None-Match."""

from __future__ import annotations

import builtins
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from kontext.errors import KontextError, ObjectExists, ObjectNotFound, StoreError
from kontext.store.objects import ObjectInfo, ObjectStore, check_key

_MISSING = {"404", "NoSuchKey", "NotFound"}
_TAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_REFUSED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_PART = 8 << 20  # bytes; files above are uploaded in parts


class S3Store(ObjectStore):
    """Objects below one prefix of one bucket."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        if not bucket:
            raise StoreError("an s3 store needs a bucket: s3://bucket/prefix")
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self.endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self._conditional: bool | None = None
        self._transfer = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART)
        with self._errors():
            # the default session would keep the first credentials it has seen
            self._client = boto3.session.Session().client(
                "s3",
                endpoint_url=self.endpoint or None,
                region_name=os.environ.get("AWS_REGION")
                or os.environ.get("AWS_DEFAULT_REGION")
                or "us-east-1",
                config=Config(
                    # standard mode: exponential back-off with full jitter
                    retries={"mode": "standard", "total_max_attempts": 6},
                    connect_timeout=5,
                    read_timeout=60,
                    max_pool_connections=32,
                    s3={"addressing_style": "path" if self.endpoint else "auto"},
                ),
            )
            self._open_bucket()

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b"" if self.exists(key) else self._missing(key)
        extra = {}
        if start or length is not None:
            end = "" if length is None else str(start + length - 1)
            extra["Range"] = f"bytes={start}-{end}"
        try:
            with self._errors(key):
                answer = self._client.get_object(Bucket=self.bucket, Key=self._name(key), **extra)
                return bytes(answer["Body"].read())
        except _OutOfRange:
            return b""

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> str:
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        return self._put(key, data, condition)

    def put_file(self, key: str, path: Path, *, if_absent: bool = False) -> str:
        try:
            if path.stat().st_size <= _PART:
                return self.put(key, path.read_bytes(), if_absent=if_absent)
            if if_absent:
                return self._put_parts(key, path)
            with self._errors(key):
                self._client.upload_file(
                    str(path), self.bucket, self._name(key), Config=self._transfer
                )
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error
        found = self.info(key)
        return found.etag if found else ""

    def replace_if(self, key: str, data: bytes, etag: str | None) -> str:
        return self._put(key, data, {"IfMatch": etag} if etag else {"IfNoneMatch": "*"})

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            with self._errors(key):
                self._client.download_file(
                    self.bucket, self._name(key), str(partial), Config=self._transfer
                )
            partial.replace(path)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)

    def info(self, key: str) -> ObjectInfo | None:
        try:
            with self._errors(key):
                head = self._client.head_object(Bucket=self.bucket, Key=self._name(key))
        except ObjectNotFound:
            return None
        return ObjectInfo(key, head["ContentLength"], head["ETag"], head["LastModified"])

    def list_info(self, prefix: str = "") -> list[ObjectInfo]:
        found = []
        with self._errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    key = item["Key"][len(self.prefix) :]
                    if key and not key.endswith("/"):
                        found.append(
                            ObjectInfo(key, item["Size"], item["ETag"], item["LastModified"])
                        )
        return sorted(found, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        with self._errors():
            self._client.delete_object(Bucket=self.bucket, Key=self._name(key))

    @property
    def supports_conditional_puts(self) -> bool:
        """Probed once: two If-None-Match puts of one name must give one winner."""
        if self._conditional is None:
            name = f"{self.prefix}.probe/{uuid.uuid4().hex}"
            request = {"Bucket": self.bucket, "Key": name, "Body": b"", "IfNoneMatch": "*"}
            with self._errors():
                self._client.put_object(**request)
            try:
                with self._errors(name):
                    self._client.put_object(**request)
                self._conditional = False
            except ObjectExists:
                self._conditional = True
            finally:
                with self._errors():
                    self._client.delete_object(Bucket=self.bucket, Key=name)
        return self._conditional

    def _put(self, key: str, data: bytes, condition: dict[str, str]) -> str:
        if condition:
            self._require_conditions()
        request = {"Bucket": self.bucket, "Key": self._name(key), "Body": data, **condition}
        try:
            with self._errors(key):
                return str(self._client.put_object(**request)["ETag"])
        except ObjectExists as error:
            # A put whose answer got lost is retried by botocore and then meets its own object.
            cause = error.__cause__
            assert isinstance(cause, ClientError)
            retried = cause.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
            if retried and (found := self.info(key)) and self.get(key) == data:
                return found.etag
            raise

    def _put_parts(self, key: str, path: Path) -> str:
        """Multipart upload that is completed only if the name is free (upload_file cannot)."""
        self._require_conditions()
        target = {"Bucket": self.bucket, "Key": self._name(key)}
        with self._errors(key), path.open("rb") as file:
            upload = {
                **target,
                "UploadId": self._client.create_multipart_upload(**target)["UploadId"],
            }
            parts: builtins.list[dict[str, Any]] = []
            try:
                while data := file.read(_PART):
                    number = len(parts) + 1
                    part = self._client.upload_part(**upload, PartNumber=number, Body=data)
                    parts.append({"PartNumber": number, "ETag": part["ETag"]})
                done = self._client.complete_multipart_upload(
                    **upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
                )
            except BaseException:
                self._client.abort_multipart_upload(**upload)
                raise
            return str(done["ETag"])

    def _require_conditions(self) -> None:
        if not self.supports_conditional_puts:
            raise StoreError(
                f"{self.url} ignores If-None-Match, so two runs could overwrite each other: "
                "use a server that honours conditional puts (AWS S3, SeaweedFS, MinIO, Ceph)"
            )

    def _name(self, key: str) -> str:
        return self.prefix + check_key(key)

    def _missing(self, key: str) -> bytes:
        raise ObjectNotFound(f"no object '{key}' in {self.url}")

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
            raise self._translate(error, key, where) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreError(
                f"no credentials for {self.url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except (BotoCoreError, boto3.exceptions.Boto3Error) as error:
            cause: Any = error.__context__
            if isinstance(cause, ClientError):  # s3transfer wraps the server's answer
                raise self._translate(cause, key, where) from cause
            raise StoreError(f"cannot use {self.url} at {where}: {error}") from error
        except ValueError as error:  # botocore: malformed endpoint or bucket name
            raise StoreError(f"cannot use {self.url} at {where}: {error}") from error

    def _translate(self, error: ClientError, key: str, where: str) -> StoreError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if key and code in _MISSING:
            return ObjectNotFound(f"no object '{key}' in {self.url}")
        if key and code in _TAKEN:
            return ObjectExists(f"'{key}' is already in {self.url}")
        if code in {"416", "InvalidRange"}:
            return _OutOfRange(f"range outside '{key}' in {self.url}")
        if code in _REFUSED:
            return StoreError(f"{where} refuses the credentials for {self.url} ({code})")
        if code == "NoSuchBucket":
            return StoreError(f"bucket '{self.bucket}' does not exist at {where}")
        return StoreError(f"{where} answered {code or error} for {self.url}")


class _OutOfRange(StoreError):
    """A range that starts after the end of the object."""
