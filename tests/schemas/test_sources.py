"""The choice between sources is as strict as if their settings were listed by hand."""

from importlib import import_module
from pathlib import Path

import pytest
from pydantic import ValidationError

from kontext.data.sources.emoji import EmojiSource
from schemas.recipes import Recipe
from schemas.sections.data import IngestConfig
from schemas.sections.sources import source_kinds

SOURCES = Path(__file__).parents[2] / "kontext" / "data" / "sources"


def test_sources_are_found_by_their_files() -> None:
    shipped = ("cutouts", "dicebear", "emoji", "folder", "meteocons", "openmoji-wheel", "signs")
    files = [path for path in SOURCES.glob("[!_]*.py") if "\ndef plan(" in path.read_text()]
    assert set(source_kinds()) == {path.stem.replace("_", "-") for path in files} >= {*shipped}
    for kind, config in source_kinds().items():
        module = import_module(config.__module__)
        assert module.__name__.rpartition(".")[2] == kind.replace("-", "_")
        assert callable(module.plan)


def test_dicts_and_settings_are_both_taken() -> None:
    config = IngestConfig(sources=({"kind": "emoji", "seed": 3}, EmojiSource(seed=3)))  # type: ignore[arg-type]
    assert config.sources == (EmojiSource(seed=3), EmojiSource(seed=3))
    assert type(IngestConfig().sources[0]) is EmojiSource


@pytest.mark.parametrize(
    ("sources", "where", "kind"),
    [
        ([{"kind": "emojis"}], ("sources", 0), "union_tag_invalid"),
        ([{"seed": 1}], ("sources", 0), "union_tag_not_found"),
        ([{"kind": "signs"}, {"kind": "emoji", "x": 1}], ("sources", 1, "emoji", "x"), None),
        ([{"kind": "signs", "scenes": 0}], ("sources", 0, "signs", "scenes"), "greater_than_equal"),
        (["emoji"], ("sources", 0), "model_attributes_type"),
        (3, ("sources",), "tuple_type"),
    ],
)
def test_errors_say_where_and_what(
    sources: object, where: tuple[str | int, ...], kind: str | None
) -> None:
    with pytest.raises(ValidationError) as caught:
        IngestConfig.model_validate({"sources": sources})
    (error,) = caught.value.errors()
    assert error["loc"] == where and error["type"] == (kind or "extra_forbidden")


def test_the_json_schema_names_every_source() -> None:
    schema = Recipe.model_json_schema()
    items = schema["$defs"]["IngestConfig"]["properties"]["sources"]["items"]
    assert items["discriminator"]["mapping"].keys() == source_kinds().keys()
    assert {option["$ref"].rpartition("/")[2] for option in items["oneOf"]} == {
        config.__name__ for config in source_kinds().values()
    }
