"""`kontext show`, drawing in a terminal, and the line of docs/sql.md that fetches a picture."""

import hashlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows import cli
from flows.cli.shared import draw
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.write import ShardSample, ShardSet, write_shards
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.catalog.catalog import Catalog
from kontext.store.objects import open_store
from tests.store.lake_rows import dataset, rows

ROOT = Path(__file__).parents[3]
PICTURES = [np.full((6, 8, 3), value, np.uint8) for value in (30, 200, 90)]
IMAGES = {pixel_id(picture): encode_png(picture) for picture in PICTURES}
SAMPLES = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("one", "two", "outside")}


def sample(name: str, contexts: int) -> ShardSample:
    ids = list(IMAGES)
    record = {
        "pair_id": SAMPLES[name], "instruction": f"make {name} lighter", "split": "train",
        "relation_class": "local", "relation": "light", "context_ids": ids[1 : 1 + contexts],
        "target_id": ids[0],
    }  # fmt: skip
    return ShardSample(SAMPLES[name], tuple(record["context_ids"]), ids[0], record)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose catalog has two pairs in a shard, and one that was rejected."""
    folder = tmp_path_factory.mktemp("show")
    objects, shards = open_store(f"file://{folder}/store"), ShardSet()
    write_shards(
        [sample("one", 1), sample("two", 2)], "train", folder, 9, IMAGES.__getitem__, shards
    )
    ArtifactStore(objects, folder / "cache").writer("shard", "s").add_file("a.tar", shards.paths[0])
    shard_table, member_table = shards.tables()
    ids = [{"pair_id": pair} for pair in SAMPLES.values()]
    tables = dataset(0, {"l1_min": 0.3}) | {
        "pairs": rows("pairs", *({**i, "relation_class": "local"} for i in ids)),
        "captions": rows("captions", *({**i, "status": "ok"} for i in ids)),
        "pair_scores": rows(
            "pair_scores",
            *(
                {"pair_id": p, "l1": 0.1 if n == "outside" else 0.5, "change_kept": 1.0}
                for n, p in SAMPLES.items()
            ),
        ),
        "shards": shard_table,
        "shard_members": member_table,
    }  # fmt: skip
    catalog = Catalog(folder / "catalog.sqlite", objects.url)
    for name in ("other", "demo"):
        catalog.commit_dataset(name, "one", tables, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KONTEXT_HOME", str(folder))
        yield folder


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, list(arguments))
    if code:
        return str(result.exception)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    return result.stdout


def test_show_writes_the_pictures_and_the_instruction(home: Path, tmp_path: Path) -> None:
    said = run("show", SAMPLES["one"][:9], "-o", str(tmp_path / "new" / "out"))
    assert said.startswith("make one lighter\n(local, light; train of demo)\n")
    written = {path.name: path.read_bytes() for path in (tmp_path / "new" / "out").iterdir()}
    ids = list(IMAGES)
    assert written == {
        "context.png": IMAGES[ids[1]], "target.png": IMAGES[ids[0]],
        "instruction.txt": b"make one lighter\n",
    }  # fmt: skip
    told = json.loads(run("show", SAMPLES["two"], "--at", "demo@v1", "--json"))
    folder = home / "show" / SAMPLES["two"][:12]
    assert told["files"] == [
        str(folder / name)
        for name in ("context-1.png", "context-2.png", "target.png", "instruction.txt")
    ]
    assert all(Path(file).is_file() for file in told["files"])
    assert told["dataset"] == "demo" and told["instruction"] == "make two lighter"


def test_what_cannot_be_shown_is_one_clear_line(home: Path) -> None:
    told = json.loads(run("show", SAMPLES["two"], "--dataset", "other", "--json"))
    assert told["dataset"] == "other"  # the same pair is in both
    assert "is in no shard (l1_min)" in run("show", SAMPLES["outside"], code=1)
    assert "no pair starts with '123456'" in run("show", "123456", code=1)
    assert CliRunner().invoke(cli.app, ["show", "XYZ"]).exit_code == 2


def test_damaged_pictures_are_not_shown(home: Path) -> None:
    (row,) = Catalog(home / "catalog.sqlite", f"file://{home}/store").query(
        f"select object, offset_bytes, length_bytes from pair_files where file = 'tgt.png' "
        f"and pair_id = '{SAMPLES['one']}'", dataset="demo"
    ).to_pylist()  # fmt: skip
    path = home / "store" / row["object"]
    data = path.read_bytes()
    start, end = row["offset_bytes"], row["offset_bytes"] + row["length_bytes"]
    other = encode_png(np.full((6, 8, 3), 31, np.uint8))
    assert data[start:end] == IMAGES[next(iter(IMAGES))] and len(other) == end - start
    try:
        path.chmod(0o644)
        path.write_bytes(data[:start] + other + data[end:])
        assert "are damaged: target" in run("show", SAMPLES["one"], code=1)
    finally:
        path.write_bytes(data)


def test_the_documented_line_fetches_a_picture(home: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "sql.md").read_text()
    (block,) = re.findall(r"```sh\n(kontext sql [^`]*pair_files[^`]*)```", page)
    command = block.replace("PAIR_ID", SAMPLES["one"])
    (tmp_path / "kontext").write_text(f'#!/bin/sh\nexec {sys.executable} -m flows.cli "$@"\n')
    (tmp_path / "kontext").chmod(0o755)
    env = {
        **os.environ, "STORE": str(home / "store"), "PYTHONPATH": str(ROOT),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }  # fmt: skip
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "target.png").read_bytes() == IMAGES[next(iter(IMAGES))]


def test_the_documented_query_of_evaluated_items_is_understood(home: Path) -> None:
    page = (ROOT / "docs" / "sql.md").read_text()
    (query,) = re.findall(r"```sql\n([^`]*evaluated_items e\n[^`]*)```", page)
    answer = Catalog(home / "catalog.sqlite", f"file://{home}/store").query(query)
    assert {"object", "target", "error"} <= set(answer.column_names) and answer.num_rows == 0


def test_sql_prints_what_round_says(home: Path) -> None:
    query = "select round(0.685::float, 3) as r, 0.1::float as f"
    assert json.loads(run("sql", query, "--json")) == [{"r": 0.685, "f": 0.1}]
    assert run("sql", query, "-f", "csv") == "r,f\n0.685,0.1\n"
    assert run("sql", query).splitlines()[-1].split() == ["0.685", "0.1"]


@pytest.mark.parametrize(
    ("environment", "draws"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, True),
        ({"TERM": "xterm"}, False),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, False),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
    ],
)
def test_pictures_are_drawn_in_capable_terminals_only(
    environment: dict[str, str], draws: bool
) -> None:
    main, end = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:  # meanwhile: a terminal that nobody reads holds only 4 kB
        while b"end" not in b"".join(shown[-2:]):
            shown.append(os.read(main, 65536))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with os.fdopen(end, "w", encoding="utf-8") as terminal:
        console = Console(file=terminal, _environ=environment, width=60)
        draw.pictures({"context": next(iter(IMAGES.values()))}, console)
        terminal.write("end\n")
        terminal.flush()
        reader.join(60)
    os.close(main)
    out = b"".join(shown)
    assert out.endswith(b"end\r\n")
    assert ("▀".encode() in out) == draws and (b"\x1b[" in out) == draws


def test_a_pipe_gets_no_pictures_even_if_colours_are_forced() -> None:
    out = io.StringIO()
    forced = {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm-256color"}
    draw.pictures({"a": next(iter(IMAGES.values()))}, Console(file=out, _environ=forced, width=60))
    assert out.getvalue() == ""


def test_each_character_is_two_pixels() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0, 0], picture[1, 1] = (255, 0, 0), (0, 0, 255)
    text = draw.half_blocks(encode_png(picture), 2)
    assert text.plain == "▀▀"
    colours = [(span.style.color.triplet, span.style.bgcolor.triplet) for span in text.spans]
    assert colours == [((255, 0, 0), (0, 0, 0)), ((0, 0, 0), (0, 0, 255))]
