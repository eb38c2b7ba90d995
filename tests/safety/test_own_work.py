"""What a home has made is known by an HMAC with its key, and what others bring is not."""

import json
from pathlib import Path

import pytest

from kontext.safety.keys import KEY_FILE, OTHER_KEYS
from kontext.safety.own_work import is_own, vouch
from kontext.store.artifacts.artifact_store import ArtifactStore, run_prefix
from kontext.store.artifacts.transfer import copy_artifacts
from kontext.store.objects import open_store
from schemas.manifest import Manifest


class Place:
    """A home and its store."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.objects = open_store(f"file://{folder}/store")
        self.store = ArtifactStore(self.objects, folder / "cache")

    def made(self, digest: str = "a" * 16, **more: object) -> Manifest:
        """An artifact that this home has made."""
        facts = {
            "stage": "screen", "digest": digest, "code_digest": "", "config": {"sizes": (1, 2)},
            "inputs": {}, "files": [], "metrics": {"loss": float("nan"), "n": 3}, "notes": [],
            "recipe": "r", "created_at": "2026-01-01T00:00:00Z", "seconds": 0.1, "git_commit": "",
            "packages": {}, "kernels": {},
        }  # fmt: skip
        manifest = Manifest.model_validate({**facts, **more})
        assert self.store.writer("screen", digest).commit(manifest) is manifest
        vouch(self.objects, self.home, manifest)
        return self.read(digest)

    def read(self, digest: str = "a" * 16) -> Manifest:
        return self.store.open("screen", digest).manifest

    def own(self, digest: str = "a" * 16) -> bool:
        return is_own(self.objects, self.home, self.read(digest))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "one")


def test_what_the_home_has_made_is_its_own(place: Place) -> None:
    place.made()
    assert place.own()


def test_a_manifest_that_was_changed_is_nobodys(place: Place) -> None:
    made = place.made()
    path = place.objects.local_path(run_prefix("screen", made.digest) + "manifest.json")
    assert path is not None
    path.write_text(path.read_text().replace('"n": 3', '"n": 4'))
    assert place.read().metrics["n"] == 4 and not place.own()
    assert not is_own(place.objects, place.home, made)  # nor what was read before


def test_what_is_copied_in_is_not_its_own(place: Place, tmp_path: Path) -> None:
    """Whatever it says of itself, and though another home has made it."""
    other = Place(tmp_path / "two")
    made = other.made()
    copy_artifacts(other.store, place.store)
    assert other.own() and not place.own()
    name = run_prefix("screen", made.digest) + "own.json"
    said = other.objects.get(name)
    place.made("b" * 16)
    mine = json.loads(place.objects.get(run_prefix("screen", "b" * 16) + "own.json"))
    for forged in (
        said,
        json.dumps(mine).encode(),
        json.dumps({**json.loads(said), "key": mine["key"]}).encode(),
        b"", b"[]", b"{}", b"null", b'{"key": [], "hmac": ""}',
        json.dumps({**mine, "hmac": None}).encode(),
        json.dumps({**mine, "hmac": "\u00fc"}).encode(),
    ):  # fmt: skip
        place.objects.put(name, forged)
        assert not place.own(), forged


def test_homes_that_share_a_store_know_each_others_work(place: Place, tmp_path: Path) -> None:
    place.made()
    other = tmp_path / "other"
    (other / OTHER_KEYS).mkdir(parents=True)
    assert not is_own(place.objects, other, place.read())
    key = other / OTHER_KEYS / "one.key"
    key.write_bytes((place.home / KEY_FILE).read_bytes())
    key.chmod(0o600)
    assert is_own(place.objects, other, place.read())


def test_a_key_that_cannot_be_used_loses_no_artifact(place: Place) -> None:
    (place.home / KEY_FILE).write_text("0" * 64)
    made = place.made()
    assert not is_own(place.objects, place.home, made)
    assert not place.objects.exists(run_prefix("screen", made.digest) + "own.json")
