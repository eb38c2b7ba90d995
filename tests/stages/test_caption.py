import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from kontext.data.pixels import encode_png
from kontext.errors import KontextError
from kontext.store.artifacts.artifact_store import ArtifactWriter
from schemas.recipes import Recipe
from schemas.sections.data import CaptionConfig
from schemas.tables import CAPTIONS, IMAGES, PAIRS, PIXELS
from tests.data.pictures import scene
from tests.stages.stage_harness import Harness, rows_table


def image(name: str, concept: str, **attributes: str) -> dict[str, Any]:
    return {"pixel_id": name, "concept": concept, "attributes": json.dumps(attributes)}


def pair(name: str, context: str, target: str, relation: str, **params: str) -> dict[str, Any]:
    return {
        "pair_id": name,
        "context_ids": [context] if context else [],
        "target_id": target,
        "relation_class": "local" if context else "t2i",
        "relation": relation,
        "params": json.dumps(params),
    }


IMAGE_ROWS = [
    image("red", "sign", color="red"),
    image("blue", "sign", color="blue"),
    image("cap", "person", hat="none"),
]
PAIR_ROWS = [
    pair("p1", "red", "blue", "color", **{"attribute": "color", "from": "red", "to": "blue"}),
    pair("p2", "", "blue", "t2i", subject="sign"),
    pair("p3", "red", "blue", "warp", **{"attribute": "space", "from": "a", "to": "b"}),
]


def harness(folder: Path, **options: Any) -> Harness:
    used = Harness(folder, Recipe(name="test", caption=CaptionConfig(**options)))

    def ingest(out: ArtifactWriter) -> None:
        out.add_table("images/000.parquet", rows_table(IMAGES, IMAGE_ROWS))
        pixels = [
            {"pixel_id": row["pixel_id"], "png": encode_png(scene(n))}
            for n, row in enumerate(IMAGE_ROWS)
        ]
        out.add_table("pixels/000.parquet", rows_table(PIXELS, pixels))

    used.make("ingest", ingest)
    used.make("mine", lambda out: out.add_table("pairs.parquet", rows_table(PAIRS, PAIR_ROWS)))
    return used


def test_every_pair_has_a_row_in_order(tmp_path: Path) -> None:
    used = harness(tmp_path)
    artifact = used.run("caption")
    table = artifact.table("captions.parquet")
    assert table.schema.names == CAPTIONS.names
    edit, single, broken = table.to_pylist()
    assert edit["pair_id"] == "p1" and "blue" in edit["instruction"]
    assert "red" in edit["instruction_inverse"]
    assert edit["target_caption"] == "a blue sign" and edit["context_caption"] == "a red sign"
    assert single["instruction"] == single["target_caption"] == "a blue sign"
    assert (broken["status"], broken["instruction"]) == ("malformed", "")
    assert artifact.manifest.metrics["captions_ok"] == 2
    assert artifact.manifest.metrics["captions_failed"] == 1
    assert artifact.manifest.notes == ["1 of 3 pairs have no caption (malformed)"]
    counts = {
        (r["relation"], r["status"]): r["pairs"] for r in used.report.tables["caption-counts"]
    }
    assert counts == {("color", "ok"): 1, ("t2i", "ok"): 1, ("warp", "malformed"): 1}
    assert edit["instruction"] in used.report.texts["caption-samples"]


def test_same_inputs_same_bytes_and_seed_matters(tmp_path: Path) -> None:
    first = harness(tmp_path / "a").run("caption").manifest.file("captions.parquet").sha256
    assert first == harness(tmp_path / "b").run("caption").manifest.file("captions.parquet").sha256
    others = {
        harness(tmp_path / str(seed), seed=seed).run("caption").manifest.files[0].sha256
        for seed in range(1, 5)
    }
    assert len(others | {first}) > 1


REPLY = {
    "instruction": "paint it blue",
    "instruction_short": "blue",
    "instruction_inverse": "paint it red",
    "target_caption": "a blue sign",
    "context_caption": "a red sign",
}


class Model(BaseHTTPRequestHandler):
    """Answers every request with REPLY until `left` runs out, then with 401."""

    left = 0
    pictures: list[int]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).left -= 1
        self.pictures.append(len(body["messages"][1]["content"]) - 1)
        self.send_response(200 if self.left >= 0 else 401)
        self.end_headers()
        if self.left >= 0:
            message = {"role": "assistant", "content": json.dumps(REPLY)}
            self.wfile.write(json.dumps({"choices": [{"message": message}]}).encode())

    def log_message(self, *args: Any) -> None:
        pass


def test_a_model_is_asked_in_chunks_and_resumed(tmp_path: Path) -> None:
    Model.left, Model.pictures = 2, []
    server = HTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        used = harness(
            tmp_path,
            captioner="chat",
            endpoint=f"http://127.0.0.1:{server.server_port}/v1",
            model="vlm",
            chunk_size=1,
            parallel=1,
        )
        with pytest.raises(KontextError, match="HTTP 401"):
            used.run("caption")
        Model.left = 10
        rows = used.run("caption").table("captions.parquet").to_pylist()
    finally:
        server.shutdown()
        server.server_close()
    assert [row["pair_id"] for row in rows] == ["p1", "p2", "p3"]
    assert {row["captioner"] for row in rows} == {"chat/vlm"}
    assert rows[0]["instruction"] == "paint it blue" and rows[1]["instruction_inverse"] == ""
    # p1 and p2 once, p3 refused and then answered; edits show two pictures, singles one
    assert Model.pictures == [2, 1, 2, 2]
