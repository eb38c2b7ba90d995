"""The server's app: how long it waits for SQLite."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration

from flows.server.web import SQLITE_PATIENCE, create_app


def test_it_gives_up_on_a_locked_database_before_prefect_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path))
    create_app()

    async def patience() -> tuple[int, str]:
        database = AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}")
        engine = await database.engine()
        async with engine.connect() as connection:
            timeout = await connection.execute(sa.text("PRAGMA busy_timeout"))
            journal = await connection.execute(sa.text("PRAGMA journal_mode"))
            return timeout.scalar_one(), journal.scalar_one()

    assert asyncio.run(patience()) == (1000 * SQLITE_PATIENCE, "wal")  # and the rest is Prefect's
