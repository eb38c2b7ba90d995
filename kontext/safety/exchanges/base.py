"""What an exchange is: its settings, and what it gives."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

CHANGES_RESULTS = False

Signals = Sequence[tuple[str, str]]  # (type, value), both as the exchange writes them
_LOOPBACK = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/.*)?")


class Delta(NamedTuple):
    """Some records of an exchange, in the order of its changes."""

    records: Mapping[str, Signals | None]  # the exchange's own key -> signals; None: withdrawn
    since: str = ""  # where the next fetch begins, when this one has ended; empty: as before
    whole: bool = False  # these are all records that there are
    dated: str = ""  # YYYY-MM-DD of what was read; empty: it is as of now


class ExchangeSettings(BaseModel):
    """`HOME/exchanges/NAME.yaml`, mode 0600."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    credentials: SecretStr = SecretStr("")
    url: str = ""  # of another server than the exchange's own, without a slash at its end

    @field_validator("url")
    @classmethod
    def _safe(cls, url: str) -> str:
        if url and not url.startswith("https://") and not _LOOPBACK.fullmatch(url):
            raise ValueError("credentials are sent to it: an address begins with https://")
        return url.rstrip("/")


def user_and_password(credentials: str) -> tuple[str, str]:
    """The two of `USER:PASSWORD`. Raises ValueError."""
    user, _, password = credentials.partition(":")
    if not user or not password:
        raise ValueError("credentials are USER:PASSWORD")
    return user, password
