"""Fixtures: the toy graph in place of the real one, and a client of the Prefect server."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient

from kontext.stages import STAGES
from tests.flows.toy_stages import GRAPH


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    """Of the session's Prefect server."""
    with get_client(sync_client=True) as found:
        yield found


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Path]:
    """KONTEXT_HOME with the toy graph instead of the real stages."""
    with _toy_graph(tmp_path / "home") as home:
        yield home


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home where the toy graph has run once; tests that use it only read."""
    from typer.testing import CliRunner

    from flows import cli

    with _toy_graph(tmp_path_factory.mktemp("finished") / "home") as home:
        assert CliRunner().invoke(cli.app, ["run", "--direct"]).exit_code == 0
        yield home


@contextlib.contextmanager
def _toy_graph(home: Path) -> Iterator[Path]:
    home.mkdir()
    real = dict(STAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KONTEXT_HOME", str(home))
        for name in ("KONTEXT_STORE", "KONTEXT_CATALOG", "PREFECT_API_URL"):
            patch.delenv(name, raising=False)
        STAGES.clear()
        STAGES.update(GRAPH)
        try:
            yield home
        finally:
            STAGES.clear()
            STAGES.update(real)
