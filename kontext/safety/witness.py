"""What a home remembers of the ledgers that it has written, wherever their heads lie.

    HOME/ledger-written/<store>/<chain>    how many segments there are at least, as a number

Without it a ledger that was deleted together with its heads looks like one that was never begun,
and a lost key like one that was never made. It never counts too many: of two processes that append
at once the later one's number may be overwritten by the other's.
"""

import os
import secrets
from pathlib import Path

from kontext.errors import LedgerError

CHANGES_RESULTS = False  # counts what was written

WRITTEN = "ledger-written"


def written(home: Path, store: str, chain: str) -> int:
    """How many segments of a chain this home knows of.

    Raises:
        LedgerError: the number is none, or cannot be read.
    """
    path = home / WRITTEN / store / chain
    try:
        return int(path.read_text("ascii"))
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise LedgerError(f"{path} is damaged: it says how much of the ledger there is") from error


def remember(home: Path, store: str, chain: str, count: int) -> None:
    """Write down that a chain has `count` segments at least.

    Raises:
        LedgerError: it cannot be written.
    """
    if count <= written(home, store, chain):
        return
    path = home / WRITTEN / store / chain
    draft = path.with_name(f".{chain}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(f"{count}\n", "ascii")
        draft.replace(path)
    except OSError as error:
        raise LedgerError(f"{path} cannot be written: {error.strerror}") from error


def forget(home: Path, store: str = "", chain: str = "") -> None:
    """Forget a chain that is set aside; every one where none is named."""
    for path in (home / WRITTEN).glob(f"{store or '*'}/{chain or '*'}"):
        path.unlink()


def any_written(home: Path) -> bool:
    """Whether the home has signed anything, in whatever store."""
    return any((home / WRITTEN).glob("*/*"))
