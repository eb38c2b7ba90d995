"""Changes to a recipe: what fits is applied, what does not is said with the word that was meant."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.changes import Change, MisfitError, changed, flat, with_overrides
from schemas.recipes import RECIPES, load_recipe

DEMO = RECIPES["demo"]()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distill.sede=1", "no key 'sede' in distill; did you mean 'seed'?"),
        ("distil.seed=1", "no section 'distil'; did you mean 'distill'?"),
        ("zzz.seed=1", "no section 'zzz'; `kontext recipe keys` lists all"),
        ("distill.zzz=1", "no key 'zzz' in distill; `kontext recipe keys distill` lists them"),
        ("finetune.student_steps=1", "did you mean 'distill.student_steps'?"),
        ("finetune.launch.rank=2", "no key 'rank' in finetune.launch; did you mean 'ranks'?"),
        ("distill.seed.x=1", "distill.seed has no keys"),
        ("ingest.sources.0.seed=1", "ingest.sources has no keys"),
        ("finetune.optimizer=moun", "did you mean 'muon'?"),
        ('ingest.sources=[{"kind":"emojis"}]', "did you mean 'emoji'?"),
        (
            'ingest.sources=[{"kind":"signs"},{"kind":"emoji","sede":1}]',
            "no key 'sede' in ingest.sources.1.emoji; did you mean 'seed'?",
        ),
        ('finetune.groups=[{"mach":"x"}]', "did you mean 'match'?"),
        ("shard.dataset=12", "put it in quotes"),
        ("finetune.lr=NaN", "finite number"),
        ("finetune.lr=1e999", "finite number"),
        ("distill.seed=" + "9" * 5000, "distill.seed: "),
        ("name=../x", "name: String should match"),
        ("distill..seed=1", "not of the form section.key=value"),
        ("=1", "not of the form section.key=value"),
    ],
)
def test_a_misfit_is_one_line_with_the_word_that_was_meant(override: str, said: str) -> None:
    with pytest.raises(MisfitError) as caught:
        with_overrides(DEMO, [override])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_values_and_whole_sections_are_replaced_and_the_last_change_wins() -> None:
    made = load_recipe(
        "demo",
        (
            'finetune.category_weights={"local": 2}',
            "finetune.category_weights.text=3",  # a table: any key
            'finetune.pictures={"steps": 3}',
            "finetune.pictures.batch=5",
            "distill.seed=1",
            "distill.seed=2",
        ),
    )
    assert made.finetune.category_weights == {"local": 2, "text": 3}
    assert (made.finetune.pictures.steps, made.finetune.pictures.batch) == (3, 5)
    assert made.distill.seed == 2


def test_nested_changes_merge_sections_and_replace_values() -> None:
    nested = {
        "finetune": {"pictures": {"batch": 5}, "category_weights": {"local": 2}},
        "index": None,  # a section whose keys are all commented out
    }
    assert list(flat(nested)) == [
        Change(("finetune", "pictures", "batch"), 5),
        Change(("finetune", "category_weights"), {"local": 2}),
    ]
    made = changed(DEMO, flat(nested))
    assert made.finetune.pictures.steps == DEMO.finetune.pictures.steps
    assert made.finetune.category_weights == {"local": 2} and made.index == DEMO.index


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "distill.seed": st.integers(-(2**40), 2**40),
            "finetune.lr": st.floats(allow_nan=False, allow_infinity=False),
            "index.message": st.text(),
            "ingest.hash_lists": st.lists(st.text()),
            "finetune.whiten_text": st.booleans(),
        },
    )
)
def test_an_override_and_a_nested_change_are_the_same(values: dict[str, Any]) -> None:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    assert with_overrides(DEMO, overrides) == changed(DEMO, flat(nested))
