"""A gate that does not work stops the run, and nothing of the run is left."""

import datetime as dt
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from kontext.data.forms import Crops
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter
from kontext.errors import CanaryError, GateError
from kontext.safety import hashes, proof
from kontext.safety.canaries import canary_png
from kontext.safety.hashes import HashGate
from kontext.safety.pdq_index import PdqIndex
from kontext.stages import STAGES
from schemas.recipes import Recipe
from schemas.sections.data import IngestConfig
from tests.data.pictures import scene_png
from tests.safety.traces import Traces

LISTED = 30  # a canary of no bank: on the operator's list of these tests
NAME = "secretname"
PICTURES = 4
LAST = PICTURES - 1


def engine(folder: Path, **options: object) -> Engine:
    """An engine on five pictures in two chunks: canary `LISTED` is in the first."""
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for number in range(PICTURES):
        (pictures / f"{number}.png").write_bytes(scene_png(number, 48))
    (pictures / f"1-{NAME}.png").write_bytes(canary_png(LISTED))
    source = {"kind": "folder", "path": str(pictures), "license_spdx": "CC0-1.0", "author": "me"}
    settings = {"sources": [source], "processes": 1, "chunk_size": 3, **options}
    recipe = Recipe.model_validate({"name": "test", "ingest": settings})
    return Engine(recipe, f"file://{folder}/store", "", folder / "home", stages=STAGES)


def run(made: Engine) -> None:
    made.run_stage("ingest", Reporter(logging.getLogger("kontext.test")))


def operator_list(home: Path) -> Path:
    digest = hashlib.sha256(canary_png(LISTED)).hexdigest()
    path = home / "hash-lists/ngo.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"# provider: ngo\n# version: 1\n# date: {dt.date.today()}\ntype,value\nsha256,{digest}\n"
    )
    return path


def left(folder: Path) -> dict[str, set[str]]:
    """What there is of the listed picture outside of its source, and of any picture as a file."""
    places, listed = (folder / "home", folder / "store"), folder / "home/hash-lists"
    found = Traces(canary_png(LISTED), NAME).left(*places, without=[listed])
    for number in range(PICTURES):
        of = Traces(scene_png(number, 48)).left(*places)
        found |= {path: what for path, what in of.items() if what & {"bytes of the file", "pixels"}}
    return found


def _no_look_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PdqIndex, "nearest", lambda self, query: None)


def _no_quality(patch: pytest.MonkeyPatch) -> None:
    real = hashes.pdq_dihedral
    patch.setattr(hashes, "pdq_dihedral", lambda rgb: (real(rgb)[0], 0))


def _no_lists(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HashGate, "from_config", classmethod(lambda cls, config, home: HashGate()))


def _named_lists_only(patch: pytest.MonkeyPatch) -> None:
    """A bug that forgets the lists of the home."""

    def found(named, home):  # type: ignore[no-untyped-def]
        return tuple(Path(name) for name in named)

    patch.setattr(hashes, "list_files", found)


def _no_turned(patch: pytest.MonkeyPatch) -> None:
    real = hashes.pdq_dihedral
    patch.setattr(
        hashes, "pdq_dihedral", lambda rgb: (np.repeat(real(rgb)[0][:1], 8, 0), real(rgb)[1])
    )


def _no_exact(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HashGate, "check", lambda self, data, rgb: self.check_pixels(rgb))


def _no_crops(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Crops, "__call__", lambda self, rgb: [])


def _no_tall_crops(patch: pytest.MonkeyPatch) -> None:
    real = Crops.__call__
    patch.setattr(
        Crops, "__call__", lambda self, rgb: real(self, rgb) if rgb.shape[0] < 257 else []
    )


BROKEN: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "look-up off": (_no_look_up, "PDQ after JPEG"),
    "quality forced to 0": (_no_quality, "PDQ of operators' lists"),
    "lists ignored": (_no_lists, "holds not all of 1 hash lists"),
    "lists of the home ignored": (_named_lists_only, "holds not all of 1 hash lists"),
    "one orientation": (_no_turned, "PDQ after turning"),
    "no crops": (_no_crops, "crops of wide pictures, crops of tall pictures"),
    "no crops of tall pictures": (_no_tall_crops, "crops of tall pictures"),
    "no exact hashes": (_no_exact, "SHA-1 of operators' lists"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_gate_that_is_broken_fails_the_run_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    operator_list(tmp_path / "home")
    made = engine(tmp_path)
    broken, said = BROKEN[how]
    with monkeypatch.context() as patch:
        broken(patch)
        hashes._load_gate.cache_clear()
        with pytest.raises(CanaryError, match=said) as caught:
            run(made)
        assert str(caught.value).endswith("nothing of this run is kept")
    assert not left(tmp_path)
    assert not made.artifacts.list("ingest") and made.artifacts.tagged("latest/ingest") is None
    hashes._load_gate.cache_clear()


@pytest.mark.parametrize("error", [GateError("out of lists"), ValueError(f"cannot hash {NAME}")])
def test_a_gate_that_breaks_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The chunks before it, and the one it breaks in, hold pictures that it had let through."""
    made = engine(tmp_path)
    real = HashGate.check

    def breaks(self, data, rgb):  # type: ignore[no-untyped-def]
        if data == scene_png(LAST, 48):
            raise error
        return real(self, data, rgb)

    with monkeypatch.context() as patch:
        patch.setattr(HashGate, "check", breaks)
        with pytest.raises(GateError) as caught:
            run(made)
    assert NAME not in str(caught.value)
    assert not left(tmp_path)
    operator_list(tmp_path / "home")
    again = engine(tmp_path)
    run(again)  # nothing old is in the way of a gate that works
    refs = again.artifact("ingest").table("images")["source_ref"].to_pylist()
    assert refs == [f"{number}.png" for number in range(PICTURES)]


def test_each_probe_is_stopped_by_what_it_is_named_after() -> None:
    """And none of them is a picture that others of the tests or a run could be."""
    names = [probe.name for probe in proof.probes()]
    assert len(set(names)) == len(names) >= 8
    bank = HashGate()
    for probe in proof.probes():
        alone = bank.check(probe.data, np.zeros((64, 64, 3), np.uint8))
        assert alone.outcome != "drop", "no probe is in the bank by its bytes alone"


def test_the_list_of_canaries_is_dated_today_and_no_list_of_an_operator(tmp_path: Path) -> None:
    gate = proof.proved_gate(IngestConfig(), tmp_path)
    text = (tmp_path / proof.LIST).read_text()
    assert f"# date: {dt.date.today()}" in text
    assert any("no hash list" in note for note in gate.notes)
    assert hashes.OPERATOR not in gate.version
    with pytest.raises(GateError, match="no hash list"):
        proof.proved_gate(IngestConfig(allow_unlisted=False), tmp_path)


def test_no_recipe_goes_without_canaries() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        IngestConfig(canaries=0)
