"""NCMEC's hash sharing (XML), by the client of `threatexchange`.

The library's own conversion takes PDQ of images and MD5 of videos alone; here all exact hashes of
an entry are taken.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import field_validator

from kontext.safety.exchanges.base import Delta, ExchangeSettings, user_and_password

CHANGES_RESULTS = False

ENVIRONMENT = "TX_NCMEC_CREDENTIALS"  # USER:PASSWORD, as the library names it
_ROOT = "queryResult"
_OVERLAP = 3600  # seconds that are asked for again: entries are not in the order of time


class Settings(ExchangeSettings):
    """Which database of theirs: `Industry`, `NGO`, `test_Industry` and what the library names."""

    kind: Literal["ncmec"] = "ncmec"
    environment: str

    @field_validator("environment")
    @classmethod
    def _word(cls, name: str) -> str:
        if not name.isidentifier():
            raise ValueError("environment is a name like Industry")
        return name


def deltas(settings: Settings, credentials: str, since: str) -> Iterator[Delta]:
    """Entries that were changed since a time in seconds, by member and id."""
    from threatexchange.exchanges.clients.ncmec.hash_api import NCMECEnvironment
    from threatexchange.exchanges.impl.ncmec_api import (
        NCMECCheckpoint,
        NCMECCollabConfig,
        NCMECSignalExchangeAPI,
    )

    environment = NCMECEnvironment[settings.environment]
    user, password = user_and_password(credentials)

    class Api(NCMECSignalExchangeAPI):
        def get_client(self, environment: Any) -> Any:
            return _client(user, password, environment, settings.url)

    api = Api(NCMECCollabConfig(environment, name="kontext"), user, password)
    start = NCMECCheckpoint(max(0, int(since) - _OVERLAP)) if since else None
    for found in api.fetch_iter([], start):
        records = {
            key: None if entry is None or entry.deleted else list(entry.fingerprints.items())
            for key, entry in found.updates.items()
        }
        yield Delta(records, str(found.checkpoint.get_entries_max_ts))


def _client(user: str, password: str, environment: Any, url: str) -> Any:
    from threatexchange.exchanges.clients.ncmec.hash_api import NCMECEndpoint, NCMECHashAPI

    class Client(NCMECHashAPI):
        def _get(self, endpoint: Any, **options: Any) -> Any:
            root = super()._get(endpoint, **options)
            # to the library any other XML, as of a proxy, is an answer without entries
            if endpoint is NCMECEndpoint.entries and root.tag != _ROOT:
                raise ValueError("not a query's result")
            return root

    client = Client(user, password, environment)
    client._base_url = url or client._base_url
    return client
