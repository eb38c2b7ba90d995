"""StopNCII.org (JSON), by the client of `threatexchange`.

Records are read here: the library leaves out one with a partner's feedback that it does not know,
and does not see that a case was withdrawn.
"""

from collections.abc import Iterator
from typing import Literal

from kontext.safety.exchanges.base import Delta, ExchangeSettings

CHANGES_RESULTS = False

ENVIRONMENT = "TX_STOPNCII_KEYS"  # FETCH_KEY,SUBSCRIPTION_KEY, as the library names it
_GONE = ("Withdrawn", "Deleted")
_TYPES = {"ImagePDQ": "pdq", "VideoMD5": "md5"}
_PAGE = 800  # records, as the library asks for


class Settings(ExchangeSettings):
    """Nothing but the credentials."""

    kind: Literal["stopncii"] = "stopncii"


def deltas(settings: Settings, credentials: str, since: str) -> Iterator[Delta]:
    """Records that were changed since a time in seconds, by type and value."""
    from threatexchange.exchanges.clients.stopncii.api import StopNCIIAPI, StopNCIIEndpoint

    fetch_key, _, subscription = credentials.partition(",")
    if not fetch_key or not subscription:
        raise ValueError("credentials are FETCH_KEY,SUBSCRIPTION_KEY")
    client = StopNCIIAPI(subscription, fetch_key, base_url_override=settings.url or None)
    start = int(since) if since else StopNCIIAPI.DEFAULT_START_TIME
    token: dict[str, str] = {}
    more = True
    while more:
        page = client._get(
            StopNCIIEndpoint.FetchHashes, startTimestamp=start, pageSize=_PAGE, **token
        )
        records = {}
        for record in page["hashRecords"]:
            kind, value = record["signalType"], record["hashValue"]
            gone = record["hashStatus"] in _GONE
            records[f"{kind} {value}"] = None if gone else [(_TYPES.get(kind, kind), value)]
        yield Delta(records, str(int(page["nextSetTimestamp"])))
        more = bool(page["hasMoreRecords"])
        if more and not page["nextPageToken"]:
            raise ValueError("there is more, but no token to ask for it")
        token = {"nextPageToken": page["nextPageToken"]}
