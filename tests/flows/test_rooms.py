"""Inside `flows` imports point down too: cli → server → the flows themselves."""

import pytest

from tests.test_architecture import ROOT, imported, sources

ABOVE = {"": ("flows.server", "flows.cli"), "server": ("flows.cli",), "cli/shared": ("flows.cli",)}


@pytest.mark.parametrize("room", ABOVE)
def test_a_room_imports_nothing_above_it(room: str) -> None:
    folder = ROOT / "flows" / room
    for path in sources(f"flows/{room}"):
        if path.parent != folder:
            continue
        wrong = {n for n in imported(path) if n.startswith(ABOVE[room])}
        wrong = {name for name in wrong if not name.startswith("flows.cli.shared.")}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_commands_do_not_import_each_other() -> None:
    for path in (ROOT / "flows" / "cli").glob("[a-z]*.py"):
        used = {n for n in imported(path) if n.startswith("flows.cli.")}
        assert all(name.startswith("flows.cli.shared.") for name in used), path.name


def test_only_what_the_server_itself_runs_imports_prefect() -> None:
    found = {
        path.stem
        for path in (ROOT / "flows" / "server").glob("*.py")
        if any(name.split(".")[0] == "prefect" for name in imported(path))
    }
    assert found == {"automations", "register", "sqlite", "web"}
