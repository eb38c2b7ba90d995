"""The server's SQLite file: transactions wait for each other instead of failing."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession

from flows.server.sqlite import take_turns


@pytest.fixture
def database(tmp_path: Path) -> Iterator[AioSqliteConfiguration]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction
        )  # put back at the end
        take_turns()
        yield AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}")


async def _session(database: AioSqliteConfiguration) -> AsyncSession:
    return await database.session(await database.engine())


async def _count(session: AsyncSession) -> int:
    return int((await session.execute(sa.text("SELECT n FROM counter"))).scalar_one())


async def _add_one(database: AioSqliteConfiguration, pause: float) -> None:
    """Reads, thinks, writes."""
    async with await _session(database) as session, database.begin_transaction(session):
        found = await _count(session)
        await asyncio.sleep(pause)
        await session.execute(sa.text("UPDATE counter SET n = :n"), {"n": found + 1})


async def _with_counter(database: AioSqliteConfiguration) -> None:
    async with await _session(database) as session:
        await session.execute(sa.text("CREATE TABLE counter AS SELECT 0 AS n"))


def test_transactions_that_read_and_then_write_wait_for_each_other(
    database: AioSqliteConfiguration,
) -> None:
    async def main() -> int:
        await _with_counter(database)
        await asyncio.gather(*(_add_one(database, 0.02 * (n % 3)) for n in range(40)))
        async with await _session(database) as session:
            return await _count(session)

    assert asyncio.run(main()) == 40


def test_inside_a_transaction_another_session_reads_without_waiting(
    database: AioSqliteConfiguration,
) -> None:
    async def main() -> tuple[int, int]:
        await _with_counter(database)
        outer = await _session(database)
        async with outer, database.begin_transaction(outer, with_for_update=True):
            await outer.execute(sa.text("UPDATE counter SET n = 7"))
            async with await _session(database) as inner:
                seen = await asyncio.wait_for(_count(inner), 20)
        async with await _session(database) as after:
            return seen, await _count(after)

    assert asyncio.run(main()) == (0, 7)
