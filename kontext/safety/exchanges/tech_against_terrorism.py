"""Tech Against Terrorism's hash list (JSON), by the client of `threatexchange` (its `tat`).

The library's own conversion takes PDQ and MD5 of videos alone; here MD5 of pictures are taken too.
"""

from collections.abc import Iterator
from typing import Literal

from kontext.safety.exchanges.base import Delta, ExchangeSettings, user_and_password

CHANGES_RESULTS = False

ENVIRONMENT = "PYTX_TAT_CREDENTIALS"  # USER:PASSWORD, as the library names it


class Settings(ExchangeSettings):
    """Nothing but the credentials."""

    kind: Literal["tech-against-terrorism"] = "tech-against-terrorism"


def deltas(settings: Settings, credentials: str, since: str) -> Iterator[Delta]:
    """Entries that were changed since a checkpoint of theirs (`TIME,ID`), by id."""
    from threatexchange.exchanges.clients.techagainstterrorism.api import TATHashListAPI

    class Client(TATHashListAPI):
        BASE_URL = f"{settings.url}/" if settings.url else TATHashListAPI.BASE_URL

    for page in Client(*user_and_password(credentials)).fetch_hashes_iter(since):
        records = {
            str(entry.id): None if entry.deleted else [(entry.algorithm, entry.hash_digest)]
            for entry in page.results
        }
        yield Delta(records, page.checkpoint or "")
