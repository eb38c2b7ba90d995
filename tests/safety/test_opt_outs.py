import hashlib
import logging
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows import cli
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter
from kontext.errors import GateError
from kontext.safety.opt_outs import FILE, OptOuts, add, opt_outs
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact
from schemas.recipe import Recipe
from tests.data.pictures import scene


def test_names_patterns_and_digests(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    (tmp_path / FILE).write_text(
        f"\ufeff# asked for\n\n  holiday/*.jpg \nfolder:cats/1.png\nsha256:{digest.upper()}\n"
        "https://example.org/p/?.png\n"
    )
    found = opt_outs(tmp_path)
    assert len(found) == 4
    assert found("folder:mine", "holiday/3.jpg") and not found("folder:mine", "holiday/3.png")
    assert found("folder:cats", "1.png") and not found("folder:dogs", "1.png")
    assert found("a", "b", digest) and not found("a", "b", digest[::-1])
    assert found("urls", "https://example.org/p/7.png")
    assert not found("urls", "https://example.org/p/77.png")
    assert not OptOuts()("a", "b", digest) and opt_outs(None) == OptOuts()
    assert found.digest and found.digest == OptOuts(found.names[::-1], found.digests).digest


@pytest.mark.parametrize("line", ["sha256:12", "sha256:" + "g" * 64])
def test_a_digest_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / FILE).write_text(f"# one\n{line}\n")
    with pytest.raises(GateError, match="line 2"):
        opt_outs(tmp_path)


def test_entries_are_added_once_and_privately(tmp_path: Path) -> None:
    assert add(tmp_path, ["a/*", "b", "a/*"]) == 2
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    (tmp_path / FILE).write_text("a/*\nb")  # without its last line's end
    assert add(tmp_path, ["b", "c"]) == 1
    assert opt_outs(tmp_path).names == ("a/*", "b", "c")


def test_the_command_takes_names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path / "home"))
    (tmp_path / "p.png").write_bytes(b"x")
    words = ["dataset", "optout", "holiday/*", str(tmp_path / "p.png")]
    found = CliRunner().invoke(cli.app, words)
    assert found.exit_code == 0 and "2 entries are new" in found.output
    kept = opt_outs(tmp_path / "home")
    assert kept == OptOuts(("holiday/*",), frozenset({hashlib.sha256(b"x").hexdigest()}))


def ingest(folder: Path) -> Artifact:
    source = {"kind": "folder", "path": str(folder / "pictures")}
    settings = {"sources": [source], "processes": 1, "chunk_size": 4}
    recipe = Recipe.model_validate({"name": "test", "ingest": settings})
    engine = Engine(recipe, f"file://{folder}/store", "", folder / "home", stages=STAGES)
    outcome = engine.run_stage("ingest", Reporter(logging.getLogger("kontext.test")))
    assert not outcome.reused
    return Artifact(engine.artifacts, outcome.manifest)


def kept(artifact: Artifact) -> set[str]:
    return set(artifact.table("images")["source_ref"].to_pylist())


def test_a_refresh_keeps_neither_what_opted_out_nor_what_was_deleted(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    names = [f"{number}.png" for number in range(6)]
    for number, name in enumerate(names):
        Image.fromarray(np.asarray(scene(number, 48))).save(pictures / name)
    first = ingest(tmp_path)
    assert kept(first) == set(names)
    (pictures / "5.png").unlink()
    digest = hashlib.sha256((pictures / "3.png").read_bytes()).hexdigest()
    add(tmp_path / "home", ["1.p*", f"sha256:{digest}"])
    second = ingest(tmp_path)
    assert kept(second) == {"0.png", "2.png", "4.png"}
    reasons = Counter(second.table("rejects.parquet")["reason"].to_pylist())
    assert reasons["opted_out"] == 2
    planned = second.manifest.metrics["images_planned"], second.manifest.metrics["entries_skipped"]
    assert planned == (4, 1)
    gone = set(first.table("images")["pixel_id"].to_pylist())
    gone -= set(second.table("images")["pixel_id"].to_pylist())
    assert len(gone) == 3
    for name in second.names():
        if name.endswith(".parquet"):
            text = str(second.table(name).to_pylist())
            assert not any(one in text for one in gone) and "5.png" not in text
