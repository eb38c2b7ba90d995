from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kontext.errors import ArtifactError
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.artifacts.defaults import choices, choose, default, named
from kontext.store.objects import open_store
from schemas.manifest import Manifest

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(open_store(f"file://{tmp_path}/store"), tmp_path / "cache")


def publish(
    store: ArtifactStore, name: str, recipe: str, day: int, stage: str = "publish"
) -> tuple[str, str]:
    writer = store.writer(stage, f"{day:064x}")
    writer.add_bytes("model/config.json", name.encode())
    made = Manifest(
        stage=stage,
        digest=writer.digest,
        code_digest="",
        config={"name": name},
        inputs={},
        files=list(writer.files.values()),
        metrics={},
        notes=[],
        recipe=recipe,
        created_at=(_BEGAN + timedelta(days=day)).isoformat(),
        seconds=1,
        git_commit="",
        packages={},
        kernels={},
    )
    writer.commit(made)
    kind = "import" if stage == "import" else "model"
    store.tag(f"{kind}@{name}", stage, writer.digest)
    return stage, writer.digest


def test_a_test_recipe_is_the_default_only_where_there_is_nothing_else(
    store: ArtifactStore,
) -> None:
    with pytest.raises(ArtifactError, match="no model yet"):
        default(store, "model")
    publish(store, "kontext-ci", "ci", 3)
    assert default(store, "model").name == "model@kontext-ci"
    publish(store, "old", "demo", 1)
    publish(store, "kontext-demo", "demo", 2)
    assert str(default(store, "model")).startswith("model@kontext-demo (recipe demo, publish/")


def test_what_was_used_last_comes_before_what_was_made_last(store: ArtifactStore) -> None:
    first = publish(store, "kontext-demo", "demo", 1)
    publish(store, "kontext-mine", "demo", 2)
    assert default(store, "model").own_name == "kontext-mine"
    store.tag("latest/model", *first)  # as the engine does where the demo runs again
    assert default(store, "model").own_name == "kontext-demo"


def test_a_home_has_its_own_choice(store: ArtifactStore, tmp_path: Path) -> None:
    publish(store, "kontext-demo", "demo", 2)
    publish(store, "bar", "", 1, "import")
    assert choices(tmp_path) == {}
    choose(tmp_path, "model", "model@bar")
    found = default(store, "model", tmp_path)
    assert (found.own_name, found.artifact.stage) == ("bar", "import") and found.chosen
    assert "imported" in str(found) and "kontext use" in str(found)
    assert default(store, "model").own_name == "kontext-demo"  # of the store itself
    choose(tmp_path, "dataset", "dataset@x")
    choose(tmp_path, "model", None)
    assert choices(tmp_path) == {"dataset": "dataset@x"}
    with pytest.raises(ArtifactError, match="dataset@x, this home's default, is not in"):
        default(store, "dataset", tmp_path)
    for damaged in ("{", "[]", '{"model": 1}'):
        (tmp_path / "defaults.json").write_text(damaged)
        with pytest.raises(ArtifactError, match="cannot read"):
            choices(tmp_path)


def test_a_name_is_enough_and_means_one_thing(store: ArtifactStore) -> None:
    published = publish(store, "foo", "demo", 1)
    imported = publish(store, "bar", "", 2, "import")
    for ref, wanted in (
        ("foo", published),
        ("model@foo", published),
        ("bar", imported),
        ("import@bar", imported),
        ("model@bar", imported),
    ):
        assert store.resolve(ref) == wanted
        found = named(store, "model", ref)
        assert found is not None and (found.artifact.stage, found.artifact.digest) == wanted
    for ref in ("dataset@foo", "import@foo", "baz"):
        assert named(store, "model", ref) is None
        with pytest.raises(ArtifactError, match="no artifact"):
            store.resolve(ref)
    store.tag("dataset@foo", *imported)
    with pytest.raises(ArtifactError, match="ambiguous: model@foo, dataset@foo"):
        store.resolve("foo")
