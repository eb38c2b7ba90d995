"""Recipes as YAML: what is written is read back, and what is no recipe is said with its line."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import own_names
from schemas.recipe_file import (
    LARGEST,
    RecipeFileError,
    new_recipe_yaml,
    read_recipe,
    recipe_from,
    recipe_yaml,
)
from schemas.recipes import RECIPES, Recipe
from schemas.words import NAME
from schemas.yaml_text import YamlError, inline, parse

REAL = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.one_of(st.text(), st.sampled_from(["no", "null", "1e-3", "~", "a: b", "#", "'", "- x"]))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """A recipe with values of every kind, and a name of its own."""
    name = draw(st.from_regex(NAME, fullmatch=True).filter(lambda name: name not in RECIPES))
    data: dict[str, Any] = RECIPES[draw(st.sampled_from([*RECIPES]))]().model_dump(mode="json")
    data["name"] = name
    data["shard"]["dataset"] = draw(st.text(min_size=1).map(own_names.slug).filter(bool))
    data["index"]["message"] = draw(WORDS)
    data["caption"] |= {"endpoint": draw(WORDS), "seed": draw(st.integers(-(2**62), 2**62))}
    data["ingest"]["hash_lists"] = draw(st.lists(WORDS, max_size=3))
    data["ingest"]["sources"] = [
        {"kind": "signs", "words": draw(st.lists(WORDS, max_size=3))},
        {
            "kind": "folder",
            "path": "/" + draw(WORDS).strip("/.").replace("\0", ""),
            "author": draw(WORDS),
        },
    ][: draw(st.integers(0, 2))]
    data["finetune"] |= {
        "lr": draw(REAL),
        "category_weights": draw(st.dictionaries(WORDS, REAL.map(abs), max_size=3)),
        "groups": [{"match": draw(WORDS), "weight_decay": None}][: draw(st.integers(0, 1))],
    }
    return Recipe.model_validate(data)


@given(recipes())
def test_any_recipe_written_and_read_is_the_same(recipe: Recipe) -> None:
    assert recipe_from(recipe_yaml(recipe), "other") == recipe


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | REAL | WORDS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=8,
    )
)
@example("\x85\u2028\ufeff\x7f\U0001f600\r\n\t\0")
@example({"true": "true", "": "", "1": 1})
def test_any_value_on_one_line_is_read_back(value: Any) -> None:
    text = inline(value)
    assert "\n" not in text and parse(f"key: {text}  # title\n").data == {"key": value}


def test_what_a_file_leaves_out_is_the_named_recipes_but_not_its_dataset_and_model() -> None:
    made = recipe_from("from: ci\ndistill:\n  seed: 3\nindex:\n", "mine")
    ci = RECIPES["ci"]().model_dump()
    found = made.model_dump()
    own = {"name": "mine", "as_default": True, "shard": {**ci["shard"], "dataset": "mine"}}
    own |= {"publish": {**ci["publish"], "name": "kontext-mine"}}
    own |= {"distill": {**ci["distill"], "seed": 3}}
    assert found == {**ci, **own}
    shared = recipe_from("from: ci\nname: mine\nshard: {dataset: ci}\n", "x")
    assert shared.shard == RECIPES["ci"]().shard and shared.publish.name == "kontext-mine"
    whole = recipe_from("name: mine", "x")
    assert whole.mine == Recipe().mine


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("from: ci\ndistill:\n  seed: 1\n  sede: 3\n", 4, "no key 'sede' in distill; did you mean"),
        ("\n\ndistil: {}\n", 3, "no section 'distil'; did you mean 'distill'?"),
        ("ingest:\n  sources:\n  - {kind: emoji}\n  - {kind: emojis}\n", 4, "did you mean 'emoji'"),
        ("ingest:\n  sources:\n  - kind: emoji\n    sede: 1\n", 4, "did you mean 'seed'?"),
        ('ingest:\n  sources:\n  - {kind: folder, path: "~a\\0b"}\n', 3, "NUL character"),
        ("distill:\n  steps: many\n", 2, "distill.steps: Input should be a valid integer"),
        ("finetune:\n  lr: 1\n  launch:\n    ranks: 2\n", 3, "more than one rank needs launcher"),
        ("distill:\n  seed: 1\n  seed: 2\n", 3, "'seed' is there twice"),
        ("a: &x 1\nb: *x\n", 2, "alias"),
        ("name: x\na: !!python/object/apply:os.system [ls]\n", 2, "tag"),
        ("name: x\na: !own {}\n", 2, "tag"),
        ("- a\n", 1, "no recipe"),
        ("", 1, "no recipe"),
        ("demo\n", 1, "no recipe"),
        ("name: x\n---\nname: y\n", 2, "a second document"),
        ("name: x\n? [a]\n: b\n", 2, "a key is a word"),
        ("name: [1\n", 2, "expected"),
        ("name: x\n\tmine: 1\n", 2, "found character"),
        ("name: x\nindex:\n  message: \0\n", 3, "not text"),
        ("[" * 5000, 1, "levels"),
        ("a: " + "{a: " * 5000, 1, "levels"),
        ("from: dmo\n", 1, "unknown recipe 'dmo'; did you mean 'demo'?"),
        ("from: [demo]\n", 1, "unknown recipe"),
        ("name: demo\n", 1, "take another name"),
        ("seed: 1\nname: ../x\n", 2, "letters, digits"),
        ("name: 3\n", 1, "letters, digits"),
        ("name: x\nshard:\n  dataset: no\n  seed: 0x10\n", 4, "shard.seed"),
        ("name: x\nshard:\n  dataset: 2024\n", 3, "put it in quotes"),
        ("name: x\ndistill: 3\n", 2, "distill: Input should be a valid dictionary"),
    ],
)
def test_what_is_no_recipe_is_one_line_with_its_number(
    text: str, line: int, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RecipeFileError) as caught:
        read_recipe(file)
    told = str(caught.value)
    assert told.startswith(f"{file}, line {line}: ") and said in told and "\n" not in told


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"name: x\nindex:\n  message: \xff\n", ", line 3: not UTF-8"),
        ("name: x".encode("utf-16"), ", line 1: not UTF-8"),
        (b"a: &a [x]\n" + b"b: [*a, *a, *a, *a]\n" * 500_000, "larger than 256 KiB"),
        (b"#" * (LARGEST + 1), "larger than 256 KiB"),
    ],
)
def test_bytes_that_are_no_recipe_are_refused(data: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(data)
    with pytest.raises(RecipeFileError, match=f"^{re.escape(f'{file}')}.*{said}"):
        read_recipe(file)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(RecipeFileError, match=said):
            read_recipe(path)


def test_marks_of_editors_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes("\ufeffname: mine\r\ndistill:\r\n  seed: 4\r\n".encode())
    assert read_recipe(file).distill.seed == 4


def test_image_folders_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    folders = ("pictures", "/elsewhere", "../x")
    listed = "".join(f"  - {{kind: folder, path: {path}}}\n" for path in folders)
    file.write_text(f"ingest:\n  sources:\n{listed}  - {{kind: meteocons}}\n")
    found = [getattr(source, "path", None) for source in read_recipe(file).ingest.sources]
    assert found == [f"{tmp_path}/pictures", "/elsewhere", f"{tmp_path}/../x", None]


def test_the_example_of_the_docs_is_a_recipe() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    text = page.partition("```yaml\n")[2].partition("```")[0]
    assert recipe_from(text, "other").distill.guard.on_spike == "skip"
    with pytest.raises(YamlError) as caught:
        recipe_from(text.replace("seed", "sede"), "mine")
    assert f"`mine.yaml, line {caught.value.line}: {caught.value}`" in page


def test_a_new_file_names_its_own_dataset_and_model() -> None:
    for base in RECIPES:
        text = new_recipe_yaml("mine-2", base)
        made = recipe_from(text, "other")
        assert (made.name, made.shard.dataset) == ("mine-2", "mine-2")
        assert made.publish.name == "kontext-mine-2" and made.mine == RECIPES[base]().mine
    for name in ("../x", "demo", "a b", ""):
        with pytest.raises(YamlError):
            new_recipe_yaml(name, "demo")


def test_yaml_is_imported_where_a_file_is_read_and_nowhere_else() -> None:
    """A machine that only trains has no PyYAML, and takes a recipe from its store."""
    text = (
        "import sys; sys.modules['yaml'] = None\n"
        "from schemas.recipes import load_recipe; from schemas.recipe_file import *\n"
        "recipe_yaml(load_recipe('demo'))\n"
        "try: read_recipe(Path('pyproject.toml'))\n"
        "except RecipeFileError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "pyproject.toml: reading it needs the package PyYAML\n"
