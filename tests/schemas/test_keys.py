"""`kontext recipe keys` lists every key with its type, default, unit and title."""

from typing import Any

from schemas.changes import with_overrides
from schemas.keys import recipe_keys
from schemas.recipes import RECIPES, Recipe


def test_every_key_is_listed_and_its_default_can_be_set() -> None:
    found = {key.key: key for key in recipe_keys()}
    settable = {name for name in found if "[" not in name}
    assert (
        set(leaves("", Recipe().model_dump(mode="json"))) - {"finetune.category_weights"}
        <= settable
    )
    demo = RECIPES["demo"]()
    for name in settable:
        value: Any = demo.model_dump(mode="json")
        for part in name.split("."):
            value = value[part]
        assert all((found[name].title, found[name].type, found[name].default)), name
        if value in found[name].choices:
            assert with_overrides(demo, [f"{name}={value}"]) == demo


def leaves(above: str, value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        return [leaf for k, v in value.items() for leaf in leaves(f"{above}.{k}".lstrip("."), v)]
    return [above]


def test_a_key_says_what_it_takes() -> None:
    found = {key.key: key for key in recipe_keys()}
    resolution = found["ingest.resolution"]
    assert resolution.type == "int, ≥ 16, ≤ 4096, multiple of 16"
    assert (resolution.default, resolution.unit) == ("64", "pixels")
    assert found["finetune.optimizer"].choices == ("adamw", "adamw-8bit", "adamw-bf16", "muon")
    assert found["autoencoder.latent_noise"].unit == "standard deviations"
    assert found["ingest.sources[emoji].max_people"].unit == ""  # "in all skin tones" is none
    assert found["ingest.sources[folder].path"].default == ""
    assert found["finetune.groups[].match"].type == "text"


def test_keys_are_found_by_part_of_name_or_title() -> None:
    assert {key.key for key in recipe_keys("DISTILL.seed")} == {"distill.seed"}
    assert "autoencoder.lr" in {key.key for key in recipe_keys("learning rate")}
    assert recipe_keys("nothing like it") == []
