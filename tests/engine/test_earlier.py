"""A stage is handed what its own code has made before, and nothing else."""

import sys
from pathlib import Path

import pytest

from kontext.engine import fingerprint
from kontext.engine.run import Engine
from kontext.engine.stage import Stage
from kontext.safety.own_work import is_own, vouch
from schemas.recipes import load_recipe
from tests.engine.test_run import REPORT, code, engine  # noqa: F401 - code is a fixture

FIRST = """
def run(ctx):
    ctx.output.add_json("earlier.json", [made.json("seed.json") for made in ctx.earlier()])
    ctx.output.add_json("seed.json", ctx.config.seed)
"""


def earlier(folder: Path, seed: int, force: bool = False) -> list[int]:
    made = engine(folder, load_recipe("demo", (f"mine.seed={seed}",)))
    digest = made.run_stage("first", REPORT, force=force).digest
    found: list[int] = made.artifacts.open("first", digest).json("earlier.json")
    return found


def test_artifacts_of_the_same_code_newest_first(code: Path) -> None:  # noqa: F811
    (code / "toy_first.py").write_text(FIRST)
    fingerprint.forget()
    assert earlier(code, 1) == []
    assert earlier(code, 2) == [1]
    assert [earlier(code, seed) for seed in (3, 4, 5)] == [[2, 1], [3, 2, 1], [4, 3, 2]]
    assert earlier(code, 5, force=True) == []  # who forces wants the work done
    (code / "toy_first.py").write_text(FIRST.replace('"seed.json")', '"seed.json") + 0'))
    fingerprint.forget()
    assert earlier(code, 6) == []


def test_what_others_have_made_is_not_asked(code: Path) -> None:  # noqa: F811
    """An artifact that came from outside may name today's code and packages."""
    (code / "toy_first.py").write_text(FIRST)
    fingerprint.forget()
    made = engine(code, load_recipe("demo", ("mine.seed=1",)))
    manifest = made.run_stage("first", REPORT).manifest
    newer = {"digest": "f" * 16, "created_at": "2999-01-01T00:00:00.000+00:00"}
    forged = manifest.model_copy(update=newer)
    made.artifacts.writer("first", "f" * 16).commit(forged)
    assert earlier(code, 2) == [1]
    said = made.objects.get(f"runs/first/{manifest.digest}/own.json")
    made.objects.put(f"runs/first/{'f' * 16}/own.json", said)
    assert earlier(code, 3) == [2, 1]
    vouch(made.objects, made.home, forged)  # who has the key can say it
    assert earlier(code, 4) == [1, 3, 2]


@pytest.mark.parametrize("model", [False, True])
def test_what_was_made_of_others_work_neither_takes_nor_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: bool
) -> None:
    """Others may call any picture by the id of one that has passed. A model names no picture."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("toy_origin", "toy_taker"):
        (tmp_path / f"{name}.py").write_text(FIRST)
        monkeypatch.delitem(sys.modules, name, raising=False)
    stages = {
        "source": Stage(name="source", section="mine", module="toy_origin", model=model),
        "user": Stage(name="user", section="caption", inputs=("source",), module="toy_taker"),
    }

    def made(source: int, user: int, own: bool = True) -> list[int]:
        recipe = load_recipe("ci", (f"mine.seed={source}", f"caption.seed={user}"))
        fingerprint.forget()
        found = Engine(recipe, f"file://{tmp_path}/store", "", tmp_path / "home", stages=stages)
        digest = found.run_stage("source", REPORT).digest
        if not own:  # as after an import
            found.objects.delete(f"runs/source/{digest}/own.json")
        artifact = found.artifacts.open("user", found.run_stage("user", REPORT).digest)
        by_key = is_own(found.objects, found.home, artifact.manifest)
        assert by_key is (own or model)
        said = [status.why for status in found.status()]
        for why, signed in zip(said, (own, by_key), strict=True):
            note = "" if signed else ", not signed with this home's key"
            assert why == "manifest exists" + note
        earlier: list[int] = artifact.json("earlier.json")
        return earlier

    assert made(1, 1) == []
    assert made(2, 2, own=False) == ([1] if model else [])
    assert made(3, 3) == ([2, 1] if model else [1])


def test_other_packages_are_other_code(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    (code / "toy_first.py").write_text(FIRST)
    fingerprint.forget()
    assert earlier(code, 1) == []
    monkeypatch.setattr("kontext.engine.earlier.package_versions", lambda: {"torch": "0"})
    assert earlier(code, 2) == []


HELP = "CHANGES_RESULTS = False\n\n\ndef helps():\n    return 1\n"
MATTERS = "def helps():\n    return 2\n"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("__init__", "", "LIMIT = 3\n"),
        ("__init__", "LIMIT = 3\n", ""),
        ("helper", HELP, MATTERS),
        ("helper", MATTERS, HELP),
    ],
)
def test_a_module_that_only_one_side_counts_is_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, before: str, after: str
) -> None:
    """A package's `__init__` that was empty, a module that said it changed nothing: or now does."""
    pack = tmp_path / "code" / "toy_pack"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text("")
    (pack / "helper.py").write_text(HELP)
    (pack / "stage.py").write_text("from toy_pack.helper import helps\n" + FIRST)
    monkeypatch.syspath_prepend(str(pack.parent))
    for module in ("toy_pack", "toy_pack.stage", "toy_pack.helper"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    stages = {"first": Stage(name="first", section="mine", module="toy_pack.stage")}

    def made(seed: int) -> list[int]:
        recipe = load_recipe("demo", (f"mine.seed={seed}",))
        fingerprint.forget()
        found = Engine(recipe, f"file://{tmp_path}/store", "", tmp_path / "home", stages=stages)
        digest = found.run_stage("first", REPORT).digest
        earlier: list[int] = found.artifacts.open("first", digest).json("earlier.json")
        return earlier

    (pack / f"{name}.py").write_text(before)
    assert [made(1), made(2)] == [[], [1]]
    (pack / f"{name}.py").write_text(after)
    assert made(3) == []
    assert made(4) == [3]
