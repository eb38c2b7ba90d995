"""`kontext bench` end to end: made data in the published layout, a judge over HTTP, kills."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from flows import cli
from kontext.edit.weights.folder import ModelSettings, save_model_folder
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.transformer import FluxTransformer
from kontext.safety.canaries import canary_png
from kontext.safety.ledger import EDITS, Ledger
from kontext.store.objects import open_store
from schemas.sections.models import AutoencoderShape
from tests.data.chat_server import ChatServer, Say, completion, serving
from tests.evaluate.benches import made
from tests.evaluate.judges.scripted import kind_of, scripted
from tests.flows.cli.test_edit import _SHAPE

ROOT = Path(__file__).parents[3]
# an editor that kills who runs it, once, in the middle of its third item
EDITS_AND_KILLS = """
import os, signal, sys
from PIL import Image, ImageOps
source, said, output = sys.argv[1:]
log, killed = {folder!r} + "/log", {folder!r} + "/killed"
done = len(open(log).read().split(chr(10))) - 1 if os.path.exists(log) else 0
if done == 2 and not os.path.exists(killed):
    open(killed, "w").close()
    os.kill(os.getppid(), signal.SIGKILL)
    sys.exit()
ImageOps.invert(Image.open(source)).save(output)
open(log, "a").write(said.split()[-1] + chr(10))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KontextBench in its layout, with all its items; nobody changes it."""
    folder = tmp_path_factory.mktemp("kontextbench")
    made.kontextbench(folder)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two items of it, as words of the command."""
    folder = tmp_path_factory.mktemp("few")
    counts = {"Instruction Editing - Local": 1, "Text Editing": 1}
    made.kontextbench(folder, counts, pictures=2)
    return ["kontextbench", "--data", str(folder), "--partial"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("KONTEXT_STORE", "KONTEXT_CATALOG", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["bench", *map(str, words)])


def judged(server: ChatServer, *models: str) -> list[str]:
    return [*(word for model in models for word in ("--judge", model)), "--endpoint", server.url]


def command(folder: Path, text: str) -> str:
    script = folder / "editor.py"
    script.write_text(text)
    return f"{sys.executable} {script} {{input}} {{instruction}} {{output}}"


def test_kontextbench_killed_and_resumed_has_the_table_of_a_run_that_was_not(
    data: Path, tmp_path: Path
) -> None:
    """Acceptance: the exact layout, a scripted judge, a SIGKILL in the middle of an edit."""
    out, words = tmp_path / "out", ["kontextbench", "--data", str(data), "--first", "1"]
    editor = ["--command", command(tmp_path, EDITS_AND_KILLS.format(folder=str(tmp_path)))]
    with serving(scripted) as server:
        asked = [*words, *editor, "--out", str(out), *judged(server, "vlm-a", "vlm-b")]
        killed = subprocess.run([sys.executable, "-m", "flows.cli", "bench", *asked], timeout=300)
        assert killed.returncode == -signal.SIGKILL and not (out / "table.md").exists()
        assert len((out / "edits.jsonl").read_text().splitlines()) == 2
        assert run(*asked).exit_code == 0
        log = (tmp_path / "log").read_text().split()
        assert len(log) == 5 and len(set(log)) == 5, "every item is edited once"
        sent = len(server.bodies)
        assert run(*asked).exit_code == 0 and len(server.bodies) == sent, "nothing is asked twice"
        again = run(*words, *editor, "--out", tmp_path / "whole", *judged(server, "vlm-a", "vlm-b"))
        assert again.exit_code == 0, again.output
        assert len((tmp_path / "log").read_text().split()) == 10
    for name in ("table.md", "summary.json", "index.html"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    table = (out / "table.md").read_text()
    assert again.stdout == (tmp_path / "whole" / "table.md").read_text() == table
    head = "| O ↑ | local | global | text | style | character | **mean of categories** |"
    assert head in table and "only 5 of 1026 items" in table
    summary = json.loads((out / "summary.json").read_text())
    cards = summary["judges"]["cards"]
    assert [card["canaries"]["identity"]["passed"] for card in cards] == [5, 5]
    assert summary["judges"]["disagreement"]["items"] == 5
    items = pq.read_table(out / "items.parquet").to_pylist()
    assert {row["outcome"] for row in items} == {"edited"} and all(row["o"] for row in items)
    o = next(one for one in summary["columns"] if one["name"] == "o")["scores"]
    by_hand = [
        sum(row["o"] for row in items if row["category"] == name)
        for name in ("local", "global", "text", "style", "character")
    ]
    assert o["mean"]["value"] == pytest.approx(sum(by_hand) / 5)


def test_broken_sets_are_named_and_nothing_of_them_is_scored(data: Path, tmp_path: Path) -> None:
    """Acceptance: missing image, wrong count, duplicate ids; a canary and a torn file beside."""
    broken, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, broken)
    lines = (broken / "test" / "metadata.jsonl").read_text("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line][:6]
    rows[1]["key"] = rows[0]["key"]
    rows[2]["file_name"] = "images/9999.jpg"
    made.write_lines(broken, rows)
    images = broken / "test" / "images"
    (images / "0003.jpg").write_bytes(canary_png(0))
    (images / "0004.jpg").write_bytes((images / "0004.jpg").read_bytes()[:200])
    words = ["kontextbench", "--data", broken, "--editor", "identity", "--out", out]
    refused = run(*words)
    assert refused.exit_code == 1 and "2 items have the id 0000" in str(refused.exception)
    assert not out.exists()
    done = run(*words, "--partial", "--json")
    assert done.exit_code == 0, done.output
    found = {
        r["item"]: (r["outcome"], r["reason"])
        for r in pq.read_table(out / "items.parquet").to_pylist()
    }
    assert found == {
        "0000": ("unusable", "duplicate_id"),
        "0002": ("unusable", "missing_image"),
        "0003": ("refused", "canary"),
        "0004": ("unreadable", "truncated"),
        "0005": ("edited", ""),
    }
    summary = json.loads(done.stdout)
    assert summary["outcomes"]["all"] == {"unusable": 2, "refused": 1, "unreadable": 1, "edited": 1}
    kinds = [problem["kind"] for problem in summary["problems"]]
    assert kinds.count("wrong_count") == 7 and {"duplicate_id", "missing_image"} < set(kinds)
    changed = next(one for one in summary["columns"] if one["name"] == "changed")["scores"]
    assert changed["all"]["n"] == 1
    table = (out / "table.md").read_text()
    assert "**Not the set as published" in table and "| unusable |" in table
    page = (out / "index.html").read_text()
    assert "Without a result: 4" in page and "no picture" in page
    ledger = Ledger(open_store(f"file://{tmp_path}/home/store"), tmp_path / "home", EDITS)
    reasons = ledger.table()["reason"].to_pylist()
    assert reasons.count("canary") == 1, "the guard of `kontext edit` has seen it"


def test_a_judge_that_returns_prose_or_likes_everything_is_named(
    few: list[str], tmp_path: Path
) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        if body["model"] == "talker" and kind_of(body) == "viescore_edit":
            return completion("A solid eight!")
        said = {"viescore_edit": ("success", "restraint"), "viescore_quality": ("natural", "clean")}
        return completion({"reasons": "", **dict.fromkeys(said[kind_of(body)], 9)})

    words = [*few, "--editor", "identity"]
    with serving(speak) as server:
        done = run(*words, "--out", tmp_path / "out", *judged(server, "talker", "flatterer"))
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    talker, flatterer = summary["judges"]["cards"]
    assert talker["unusable"] == {"malformed": 2} and talker["items"] == 0
    assert flatterer["items"] == 2 and flatterer["canaries"]["identity"]["passed"] == 0
    assert talker["fit"] is flatterer["fit"] is False
    assert "judge flatterer fails its canaries" in done.stdout
    o = next(one for one in summary["columns"] if one["name"] == "o")["scores"]
    assert o["all"]["value"] is None and o["all"]["n"] == 0


def test_a_model_and_its_autoencoder_are_compared_in_pairs(few: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderShape(ch=8, norm_groups=4), 0.36, 0.11)
    settings = ModelSettings(name="tiny", steps=1)
    save_model_folder(tmp_path / "model", FluxTransformer(_SHAPE), autoencoder, settings)
    words = [*few, "--weights", tmp_path / "model"]
    first = run(*words, "--editor", "codec", "--out", tmp_path / "codec")
    assert first.exit_code == 0, first.output
    with serving(scripted) as server:
        asked = [*words, "--out", tmp_path / "own", *judged(server, "vlm")]
        second = run(*asked, "--against", tmp_path / "codec")
        assert second.exit_code == 0, second.output
        pairs = [body for body in server.bodies if kind_of(body).startswith("pair")]
    assert len(pairs) == 2 * 2
    summary = json.loads((tmp_path / "own" / "summary.json").read_text())
    (duel,) = summary["pairwise"]
    assert duel["items"] == 2 and duel["orders_contradict"] == 0
    assert summary["run"]["editor"]["model"] == "tiny" and summary["run"]["editor"]["steps"] == 1
    rows = pq.read_table(tmp_path / "own" / "judgements.parquet").to_pylist()
    assert {row["canary"] for row in rows} == {"", "identity", "pairwise"}
    other = run(*asked, "--seed", "1")
    assert other.exit_code == 1 and "another seed" in str(other.exception)


def test_what_cannot_be_run_is_said_before_anything_is_made(data: Path, tmp_path: Path) -> None:
    listed = run()
    assert listed.exit_code == 0 and "hf download" in listed.stdout
    assert {"kontextbench", "gedit", "magicbrush"} <= {
        r["name"] for r in json.loads(run("--json").stdout)
    }
    assert run("kontextbench").exit_code == 2
    words = ["kontextbench", "--data", data, "--editor", "identity", "--out", tmp_path / "out"]
    assert "needs a model" in str(run(*words, "--endpoint", "http://127.0.0.1:1/v1").exception)
    assert "takes a judge" in str(run(*words, "--against", tmp_path).exception)
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    rows = {"1": {"id": "1", "prompt": "a cat"}}
    (prompts / "genai_image.json").write_text(json.dumps(rows))
    drawn = run(
        "genaibench",
        "--data",
        prompts,
        "--partial",
        "--editor",
        "identity",
        "--out",
        tmp_path / "t",
    )
    assert drawn.exit_code == 1 and "has texts" in str(drawn.exception)
