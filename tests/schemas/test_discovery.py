"""Plug-ins and stages' own sections are found by their files; nothing else is imported."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter
from pydantic.fields import FieldInfo

from schemas import recipe as recipe_module
from schemas.discovery import DeclaredIn, literals, plugins
from schemas.recipe import Recipe
from schemas.sections.base import Section


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of which one file defines `act`, and one only speaks of it and cannot load."""
    name = "some_plugins"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "with_act.py").write_text("def act(): return 1\n\nORDER = 3\n")
    (folder / "broken.py").write_text("import nothing_of_that_name  # act\n\nORDER = 4\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def test_only_files_that_define_the_attribute_are_imported(package: str) -> None:
    assert plugins(package, "absent") == {} and package not in sys.modules
    assert literals(package, "ORDER") == {f"{package}.broken": 4, f"{package}.with_act": 3}
    assert package not in sys.modules
    found = plugins(package, "act")
    assert list(found) == ["with-act"] and found["with-act"].act() == 1


def test_a_recipe_can_name_plug_ins_that_are_too_heavy_for_it(package: str) -> None:
    named = TypeAdapter(Annotated[str, DeclaredIn(package, "ORDER")])
    assert named.validate_python("broken") == "broken"
    assert named.json_schema() == {"type": "string", "enum": ["broken", "with-act"]}
    with pytest.raises(ValueError, match="'broken' or 'with-act'"):
        named.validate_python("with_act")
    assert package not in sys.modules


class Own(Section):
    """Settings beside a stage."""

    size: int = Field(3, title="Size", ge=1)


def test_a_section_of_a_stage_file_is_as_strict_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    field = FieldInfo.from_annotated_attribute(Own, Field(Own(), title="Own"))
    monkeypatch.setattr(recipe_module, "sections_of_stage_files", lambda: {"own": field})
    before = dict(Recipe.model_fields)
    try:
        Recipe.model_rebuild(force=True)
        made = Recipe.model_validate({"own": {"size": 5}})
        assert made.own == Own(size=5)  # type: ignore[attr-defined]
        assert made.model_dump()["own"] == {"size": 5} and list(made.model_dump())[-1] == "own"
        assert Recipe.model_validate_json(made.model_dump_json()) == made
        assert "own" in Recipe.model_json_schema()["properties"]
        for wrong in ({"own": {"size": 0}}, {"own": {"sizes": 1}}, {"owner": {}}):
            with pytest.raises(ValueError, match=r"own\.size|own\.sizes|owner"):
                Recipe.model_validate(wrong)
        monkeypatch.setattr(recipe_module, "sections_of_stage_files", lambda: {"mine": field})
        with pytest.raises(ValueError, match="'mine' is declared twice"):
            Recipe.model_rebuild(force=True)
    finally:
        monkeypatch.undo()
        for name in set(Recipe.model_fields) - set(before):
            del Recipe.model_fields[name]
        Recipe.model_rebuild(force=True)
    with pytest.raises(ValueError, match="own"):
        Recipe.model_validate({"own": {}})
