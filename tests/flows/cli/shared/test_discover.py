import importlib
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows import cli
from flows.cli.shared.discover import add_commands
from flows.cli.shared.options import Panel

HELLO = '''
from flows.cli.shared.options import Panel
PLACE = (Panel.RUN, 1)
def say_hello():
    """Greet."""
    print("hello")
'''
GROUP = """
import typer
app = typer.Typer(help="Several.")
@app.command()
def one(): print("one")
@app.command()
def two(): print("two")
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """Commands of a package made up for the test."""
    folder = tmp_path / "made_up"
    (folder / "shared").mkdir(parents=True)
    files = {"__init__": "", "_helper": "1/0", "group": GROUP, "say_hello": HELLO}
    files["import_"] = "def import_():\n    print('in')\n"
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "shared" / "__init__.py").write_text("1/0")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.startswith("made_up")]:
        monkeypatch.delitem(sys.modules, name)
    found = typer.Typer()
    add_commands(found, importlib.import_module("made_up"))
    return found


def test_a_file_is_a_command_and_an_app_a_group(app: typer.Typer) -> None:
    runner = CliRunner()
    for words, said in (
        (["say-hello"], "hello\n"),
        (["group", "two"], "two\n"),
        (["import"], "in\n"),
    ):
        assert runner.invoke(app, words).output == said


def test_places_decide_the_order_of_help(app: typer.Typer) -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    where = [text.index(word) for word in (Panel.RUN, "say-hello", Panel.OTHER, "import", "group")]
    assert where == sorted(where)


def test_every_command_of_kontext_has_a_place_of_its_own() -> None:
    folder = Path(cli.__file__).parent
    names = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")]
    places = [importlib.import_module(f"flows.cli.{name}").PLACE for name in names]
    assert len(set(places)) == len(names)
