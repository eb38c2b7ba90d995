"""Fixtures: the toy graph in place of the real one, and one Prefect server for the session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from kontext.stages import STAGES
from tests.flows.toy_stages import GRAPH


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """KONTEXT_HOME with the toy graph instead of the real stages."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("KONTEXT_HOME", str(home))
    for name in ("KONTEXT_STORE", "KONTEXT_CATALOG", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    real = dict(STAGES)
    STAGES.clear()
    STAGES.update(GRAPH)
    yield home
    STAGES.clear()
    STAGES.update(real)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server with every pool, deployment and automation of the project."""
    from prefect.testing.utilities import prefect_test_harness

    from flows import register

    with prefect_test_harness(server_startup_timeout=120):
        asyncio.run(register.main())
        yield
