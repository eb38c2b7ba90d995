"""Who may read a home."""

import stat
from pathlib import Path

import pytest

from flows.server.processes import Running, spawn
from kontext.store.catalog.catalog import Catalog
from tasks.workspace import Places, make_private, open_engine, resolve_recipe


def _places(home: Path) -> Places:
    return Places(home, f"file://{home}/store", f"{home}/catalog.sqlite")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_earlier_home_is_mended(tmp_path: Path) -> None:
    at = _places(tmp_path / "home")
    names = ("prefect/prefect.db", "prefect/up.json", "logs/server.log", "catalog.sqlite-wal")
    for name in (*names, "store/object"):
        path = at.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.chmod(0o644)
    at.home.chmod(0o755)
    (at.prefect / "elsewhere").symlink_to(tmp_path / "a file of somebody")
    (tmp_path / "a file of somebody").touch(0o644)
    (tmp_path / "a file of somebody").chmod(0o644)
    make_private(at)
    assert _mode(at.home) == 0o700
    assert {_mode(at.home / name) for name in names} == {0o600}
    assert _mode(at.home / "store/object") == _mode(tmp_path / "a file of somebody") == 0o644


def test_a_folder_that_everybody_uses_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    make_private(_places(tmp_path))
    assert _mode(tmp_path) == 0o1777


def test_whatever_makes_a_new_home_makes_it_private(tmp_path: Path) -> None:
    at = _places(tmp_path / "new" / "home")
    open_engine(resolve_recipe("ci"), at)
    assert _mode(at.home) == 0o700
    Catalog(at.catalog, at.store).migrate()
    Running().save(at.prefect / "up.json")
    spawn(["true"], {}, at.home / "logs" / "worker.log")
    made = ("catalog.sqlite", "prefect/up.json", "logs/worker.log")
    assert {_mode(at.home / name) for name in made} == {0o600}


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_catalog_that_is_there_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    catalog = tmp_path / "catalog.sqlite"
    Catalog(str(catalog), f"file://{tmp_path}/store").migrate()
    catalog.chmod(mode)
    with Catalog(str(catalog), f"file://{tmp_path}/store")._metadata.lock():
        pass
    assert _mode(catalog) == mode
