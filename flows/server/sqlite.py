"""How the server's requests and services share its SQLite file: one writes, the others wait.

SQLite refuses at once ("database is locked") a transaction that has read and then wants to write
while another has written in between: no waiting helps it, it must begin again. Prefect 3.9.1 takes
the write lock first in some transactions only. Here all of them do, so that they queue.

Prefect also hands the lock's mode to whatever is opened while a transaction lasts: a second session
that only reads would then wait for the first, which waits for it. Here the mode ends with BEGIN.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


def take_turns() -> None:
    """From now on every transaction of this process takes the write lock when it begins."""
    AioSqliteConfiguration.begin_transaction = _begin_transaction  # type: ignore[method-assign]


@asynccontextmanager
async def _begin_transaction(
    self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
) -> AsyncGenerator[AsyncSessionTransaction, None]:
    async with session.begin() as transaction:
        token = SQLITE_BEGIN_MODE.set("IMMEDIATE")
        try:
            await session.connection()
        finally:
            SQLITE_BEGIN_MODE.reset(token)
        yield transaction
