"""Users' recipes in a store: by content, by name, and never a wrong one."""

import time

import pytest

from kontext.errors import RecipeError
from kontext.store.objects import ObjectStore
from kontext.store.recipes import find_recipe, get_recipe, put_recipe, stored_recipes
from schemas.recipe_file import recipe_from


def test_a_recipe_is_found_by_name_and_by_content(objects: ObjectStore) -> None:
    one, two = (recipe_from(f"from: demo\ndistill: {{seed: {n}}}\n", "mine") for n in (1, 2))
    first = put_recipe(objects, one)
    time.sleep(0.01)
    second = put_recipe(objects, two)
    assert first != second and put_recipe(objects, two) == second
    assert [found.reference for found in stored_recipes(objects)] == [second, first]
    assert find_recipe(objects, "mine").reference == second
    for reference in (first, first[:9]):
        assert get_recipe(objects, find_recipe(objects, reference)) == one
    time.sleep(0.01)
    put_recipe(objects, one)  # again: it is the last now
    assert find_recipe(objects, "mine").reference == first


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("mnie", "unknown recipe 'mnie'; did you mean 'mine'?"),
        ("dmeo", "did you mean 'demo'?"),
        ("mine@00000000", "no recipe 'mine@00000000' in file://"),
        ("mine@xyz", "no recipe 'mine@xyz' in file://"),
        ("../mine", "unknown recipe '../mine'"),
        ("", "unknown recipe ''"),
    ],
)
def test_what_is_not_there_is_said(reference: str, said: str, objects: ObjectStore) -> None:
    put_recipe(objects, recipe_from("from: demo", "mine"))
    with pytest.raises(RecipeError) as caught:
        find_recipe(objects, reference, known=("demo",))
    assert said in str(caught.value)


def test_an_ambiguous_digest_and_foreign_objects(objects: ObjectStore) -> None:
    objects.put("recipes/mine/0123aaaaaaaa.json", b"{}")
    objects.put("recipes/mine/0123bbbbbbbb.json", b'{"distill": {"gone": 1}}')
    objects.put("recipes/mine/notes.txt", b"")
    objects.put("recipes/README", b"")
    assert len(stored_recipes(objects)) == 2
    with pytest.raises(RecipeError, match="'mine@0123' may be mine@0123"):
        find_recipe(objects, "mine@0123")
    with pytest.raises(RecipeError, match=r"of another version of kontext: distill\.gone"):
        get_recipe(objects, find_recipe(objects, "mine@0123b"))
