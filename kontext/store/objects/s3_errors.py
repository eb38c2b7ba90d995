"""What an S3 server's refusals mean, in one line each, with the remedy."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from botocore.exceptions import ClientError

from kontext.errors import ObjectExists, ObjectNotFound, StoreError

_MISSING = {"404", "NoSuchKey", "NotFound"}
_TAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_REFUSED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_REFUSED |= {"ExpiredToken", "InvalidToken", "AllAccessDisabled"}
_REGION = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}
_REGION_HEAD = {"301", "307", "400"}  # a HEAD has no body that says more
_SKEW = timedelta(minutes=5)  # servers refuse at 15


class OutOfRange(StoreError):
    """A range that starts after the end of the object."""


def translate(error: ClientError, key: str, url: str, where: str, region: str) -> StoreError:
    """The typed error of a refusal. `key` is empty for requests about the bucket."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    if key and code in _MISSING:
        return ObjectNotFound(f"no object '{key}' in {url}")
    if key and code in _TAKEN:
        return ObjectExists(f"'{key}' is already in {url}")
    if code in {"416", "InvalidRange"}:
        return OutOfRange(f"range outside '{key}' in {url}")
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    there = headers.get("x-amz-bucket-region", "")
    if code in _REGION or (code in _REGION_HEAD and there not in ("", region)):
        remedy = f"set AWS_REGION={there}" if there else f"{error.response['Error'].get('Message')}"
        return StoreError(f"the bucket of {url} is not in region '{region}': {remedy}")
    if code == "RequestTimeTooSkewed" or (code in _REFUSED and abs(_ahead(headers)) > _SKEW):
        minutes = round(abs(_ahead(headers)).total_seconds() / 60)
        return StoreError(
            f"{where} refuses {url} because the clocks differ by {minutes} minutes: "
            "set this machine's clock (NTP)"
        )
    if code in _REFUSED:
        return StoreError(f"{where} refuses the credentials for {url} ({code})")
    if code in {"NoSuchBucket", "404"}:
        bucket = url.removeprefix("s3://").partition("?")[0].split("/")[0]
        return StoreError(f"bucket '{bucket}' does not exist at {where}")
    return StoreError(f"{where} answered {code or error} for {url}")


def _ahead(headers: dict[str, str]) -> timedelta:
    """How far the clock here is ahead of the server's."""
    try:
        return now() - parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError, TypeError):
        return timedelta(0)


def now() -> datetime:
    """The clock here."""
    return datetime.now(UTC)
