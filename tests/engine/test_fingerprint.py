"""The code fingerprint, on a copy of the real sources in which single files are changed."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kontext.data.sources.folder import FolderSource
from kontext.data.sources.pairs import PairsSource
from kontext.edit.teacher_edits import CODE as EDITS_CODE
from kontext.edit.weights.model_store import CODE as IMPORT_CODE
from kontext.engine import fingerprint, known_sources
from kontext.engine.fingerprint import (
    changes_results,
    code_digest,
    code_of,
    modules_of,
    syntax_hash,
)
from kontext.engine.graph import downstream
from kontext.engine.stage import Stage, section_in
from kontext.errors import ArtifactError
from kontext.stages import STAGES
from schemas.discovery import plugins
from schemas.manifest import artifact_digest
from schemas.recipes import load_recipe
from schemas.sections.data import CaptionConfig, EditsConfig, IngestConfig, ScreenConfig
from tests.test_architecture import ROOT, module_of

RECIPE = load_recipe("ci")
PLUGINS = (  # packages, and what their plug-ins define
    ("kontext.data.sources", "plan"),
    ("kontext.data.mine", "mine"),
    ("kontext.data.caption", "captioner"),
    ("kontext.safety.classifiers", "load"),
    ("kontext.evaluate.metrics", "METRICS"),
    ("kontext.train.methods", "AFTER_FLOW"),
    ("kontext.train.methods", "DISTILS"),
)
PLUGIN_MODULES = {
    module.__name__
    for package, attribute in PLUGINS
    for module in plugins(package, attribute).values()
}
MODULES = [".".join(module_of(path)) for path in sorted((ROOT / "kontext").rglob("*.py"))]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of all sources, which the fingerprint reads instead."""
    folder = tmp_path_factory.mktemp("sources")
    for top in ("kontext", "schemas"):
        shutil.copytree(ROOT / top, folder / top, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        real = fingerprint._top.__wrapped__

        def looked_up(name: str) -> tuple[tuple[Path, ...], Path | None] | None:
            if name not in ("kontext", "schemas"):
                return real(name)
            return (folder / name,), folder / name / "__init__.py"

        looked_up.cache_clear = lambda: None  # type: ignore[attr-defined]
        patch.setattr(fingerprint, "_top", looked_up)
        fingerprint.forget()
        yield folder
    fingerprint.forget()


def codes() -> dict[str, str]:
    """Stage -> digest of the code that decides its result."""
    fingerprint.forget()
    return {
        name: code_digest(code_of(stage, section_in(RECIPE, stage)))
        for name, stage in STAGES.items()
    }


def stale(before: dict[str, str]) -> list[str]:
    """Stages whose artifact has another digest than with the code `before`."""
    after, digests = codes(), ({}, {})  # type: ignore[var-annotated]
    for name, stage in STAGES.items():
        for code, made in zip((before, after), digests, strict=True):
            made[name] = artifact_digest(
                name, code[name], {}, {source: made[source] for source in stage.inputs}
            )
    return [name for name in STAGES if digests[0][name] != digests[1][name]]


@pytest.fixture(scope="module")
def change(sources: Path) -> Callable[[str, Callable[[str], str]], list[str]]:
    """Change a file, see which stages are stale, and change it back."""
    before = codes()

    def apply(file: str, edit: Callable[[str], str]) -> list[str]:
        path = sources / file
        text = path.read_text()
        assert edit(text) != text
        path.write_text(edit(text))
        try:
            return stale(before)
        finally:
            path.write_text(text)

    return apply


Change = Callable[[str, Callable[[str], str]], list[str]]


def one_more_line(text: str) -> str:
    return text + "\nANOTHER = 1\n"


def other_words(text: str) -> str:
    """Another docstring and a comment more."""
    return '"""Other words.' + text.removeprefix('"""').replace("\n\n", "\n\n# a remark\n", 1)


def test_a_line_of_the_transformer_reaches_finetune_and_what_follows(change: Change) -> None:
    found = change("kontext/models/flux/transformer.py", one_more_line)
    assert found == downstream(STAGES, "finetune")


@pytest.mark.parametrize(
    ("file", "first"),
    [
        ("kontext/data/mine/attributes.py", "mine"),
        ("kontext/data/sources/emoji.py", "ingest"),
        ("kontext/data/caption/templates.py", "caption"),
        ("kontext/safety/classifiers/open_nsfw.py", "ingest"),
        ("kontext/evaluate/metrics/success.py", "exclude"),  # attacks are judged by it
        ("kontext/evaluate/metrics/reading.py", "evaluate"),
        ("kontext/safety/text_rules.json", "ingest"),
        ("schemas/views/acceptance.sql", "ingest"),
        ("kontext/store/parquet.py", "ingest"),
    ],
)
def test_what_a_section_names_and_what_is_read_counts(
    change: Change, file: str, first: str
) -> None:
    assert change(file, one_more_line) == downstream(STAGES, first)


@pytest.mark.parametrize(
    "file",
    [
        "kontext/models/flux/transformer.py",
        "kontext/train/loop/fit.py",
        "kontext/data/pixels.py",
        "schemas/tables.py",
    ],
)
def test_other_words_make_nothing_stale(change: Change, file: str) -> None:
    assert change(file, other_words) == []


@pytest.mark.parametrize(
    "file",
    [
        "kontext/evaluate/report/report.css",
        "kontext/evaluate/report/charts.py",
        "kontext/data/sources/folder.py",  # not named by the recipe
        "kontext/data/caption/chat.py",
        "kontext/store/objects/s3.py",
        "kontext/engine/run.py",
        "kontext/parallel/ranks/launch.py",
        "schemas/views/pairs_by_category.sql",
        "schemas/recipes/demo.py",
    ],
)
def test_what_changes_no_result_makes_nothing_stale(change: Change, file: str) -> None:
    assert change(file, one_more_line) == []


def test_a_new_file_makes_nothing_stale(sources: Path) -> None:
    before = codes()
    for package, _ in PLUGINS:
        (sources / package.replace(".", "/") / "new_one.py").write_text("METRICS = ()\n")
    assert stale(before) == []


def _reworded(text: str) -> str:
    return text.replace('summary="propose', 'summary="offer')


def test_a_declaration_may_be_reworded(change: Change) -> None:
    assert change("kontext/stages/mine.py", _reworded) == []


# Code that decides other things than stages' artifacts, and is hashed for them.
OTHER = {*modules_of(EDITS_CODE), *modules_of(IMPORT_CODE)}


def test_every_module_says_that_it_changes_no_result_or_is_counted() -> None:
    """A new module is counted by being imported; one that is not says why it changes nothing."""
    counted = set(OTHER)
    for stage in STAGES.values():
        counted |= set(code_of(stage, section_in(RECIPE, stage)))
    # what plug-ins that the recipe does not name import themselves
    sources = (PairsSource(path="x"), FolderSource(path="x"))
    edited = IngestConfig(sources=sources, edits=EditsConfig(per_picture=1))
    counted |= set(code_of(STAGES["ingest"], edited))
    counted |= set(code_of(STAGES["caption"], CaptionConfig(captioner="chat", judge=True)))
    counted |= set(code_of(STAGES["screen"], ScreenConfig(classifiers=("open-nsfw", "nsfwjs"))))
    empty = {m for m in MODULES if ROOT.joinpath(*m.split("."), "__init__.py").is_file()} - counted
    left = {module for module in MODULES if changes_results(module)} - counted - PLUGIN_MODULES
    assert left - empty == set(), "no stage imports them: CHANGES_RESULTS = False, and why"
    assert not any(changes_results(module.partition(":")[0]) is False for module in counted)


def test_other_hashes_are_closures_too() -> None:
    assert {"kontext.edit.pairs", "kontext.edit.euler", "kontext.models.flux.transformer"} <= set(
        modules_of(EDITS_CODE)
    )
    assert {"kontext.models.flux.layout", "kontext.parallel.attention"} <= set(
        modules_of(EDITS_CODE)
    )
    assert {"kontext.models.files.recognise", "kontext.edit.weights.folder"} <= set(
        modules_of(IMPORT_CODE)
    )


def test_the_whole_graph_parses_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, parse = list[str](), ast.parse

    def counted(source: str, name: str = "") -> ast.Module:
        if name.endswith(".py"):  # others parse sources without a file
            parsed.append(name)
        return parse(source, name)

    fingerprint.forget()
    fingerprint.known.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(known_sources, "FILE", tmp_path / "none.json")  # nothing was read before
        patch.setattr(ast, "parse", counted)
        once, twice = codes(), codes()
    fingerprint.known.cache_clear()
    assert once == twice and len(once) == len(STAGES)
    assert len(parsed) == len(set(parsed)) > len(STAGES)


SAMPLE = '''
"""Words."""
from __future__ import annotations
import a.b as c
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from x import Y
STAGE = Stage(name="z")

class A(B, metaclass=C):
    """Words."""
    n: int = 1_000
    def f(self, x: list[int], *args: str, y=1.5, **more) -> Y:
        "Words."
        match x:
            case [1, *rest] if (k := len(rest)):
                return f"{x!r:>{self.n}} and" f" {k:.3f}" "s" + b"".decode()
            case {"a": None}:
                raise E(...) from None
        return [i async for i in x if i] and {**more, "b": x[1:-1]} or (lambda: not True)
'''


def test_a_hash_is_of_the_tree_and_the_same_in_every_version_of_python() -> None:
    assert syntax_hash(ast.parse(SAMPLE)) == "904123b6ac9e6eea"
    other = SAMPLE.replace('"Words."', '"Other."').replace("if TYPE", "# why\nif TYPE")
    other = other.replace("from x import Y", "from x import Y, Z").replace('name="z"', 'name="y"')
    assert other != SAMPLE and syntax_hash(ast.parse(other)) == syntax_hash(ast.parse(SAMPLE))
    for old, new in (("1.5", "1.25"), (" and", " or"), ("x[1:-1]", "x[1:]"), ("int", "str")):
        assert syntax_hash(ast.parse(SAMPLE.replace(old, new, 1))) != syntax_hash(ast.parse(SAMPLE))


def test_what_cannot_be_found_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match=r"no source found for 'kontext\.nothing'"):
        modules_of("kontext.nothing")
    (tmp_path / "lacking.py").write_text('DATA_FILES = ("nowhere/*.json",)\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ArtifactError, match=r"DATA_FILES 'nowhere/\*\.json' matches nothing"):
        code_of(Stage(name="a", section="mine", module="lacking"), RECIPE.mine)
