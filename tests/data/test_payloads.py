"""Ingest of addresses: one outcome each, asked once, and nothing is left of what the gate stops."""

import datetime as dt
import hashlib
from collections import Counter
from pathlib import Path

import pytest

from kontext.data import ingest
from kontext.data.sources.pairs import PairsSource
from kontext.errors import CanaryError
from kontext.safety.canaries import canary_png
from kontext.safety.pdq_index import PdqIndex
from schemas.recipes import Recipe
from schemas.sections.data import IngestConfig
from tests.data.layouts.files import lines, put
from tests.data.pictures import scene_png
from tests.data.web_server import Give, WebServer, web
from tests.stages.stage_harness import Harness

PLANTED = 9  # a canary of the bank that ingest itself does not inject
ROUTES = {
    "/a.png": Give(scene_png(1)), "/b.png": Give(scene_png(2)), "/c.png": Give(scene_png(3)),
    "/again": Give(scene_png(1)),
    "/busy": lambda n: Give(status=429) if not n else Give(scene_png(4)),
    "/stop": Give(canary_png(PLANTED)), "/broken": Give(scene_png(5)[:900]),
    "/html": Give(b"<html>"), "/fails": Give(status=500),
    "/robots.txt": Give(b"User-agent: *\nDisallow: /shut"),
}  # fmt: skip
EDITS = [
    ("/a.png", "/b.png"), ("/a.png", "/c.png"), ("/b.png", "/busy"), ("/again", "/c.png"),
    ("/a.png", "/stop"), ("/stop", "/c.png"), ("/broken", "/a.png"), ("/a.png", "/html"),
    ("/fails", "/a.png"), ("/shut", "/a.png"), ("/a.png", "/none"),
]  # fmt: skip


def harness(folder: Path, server: WebServer, **options: object) -> Harness:
    rows = [
        {"before_url": server.url + a, "after_url": server.url + b, "instruction": f"edit {n}"}
        for n, (a, b) in enumerate(EDITS)
    ]
    path = put(folder, {"l/pairs.jsonl": lines(rows)}) / "l" / "pairs.jsonl"
    settings = {"allowed_hosts": (server.host,), "host_wait": 0, "first_wait": 0.01}
    source = PairsSource(path=str(path), layout="url-list")
    config = IngestConfig(sources=(source,), web=settings, processes=1, chunk_size=5, **options)  # type: ignore[arg-type]
    return Harness(folder, Recipe(name="test", ingest=config))


def again(folder: Path, server: WebServer, **options: object) -> Harness:
    """One with the same home and another store."""
    used = harness(folder / "again", server, **options)
    used.home = folder / "home"
    return used


def test_every_address_has_one_outcome_and_a_rerun_asks_nobody_again(tmp_path: Path) -> None:
    with web(ROUTES) as server:
        used = harness(tmp_path, server)
        made = used.run("ingest")
        images, rejects = made.table("images"), made.table("rejects.parquet")
        own = [row for row in rejects.to_pylist() if row["source"] != ingest.CANARY]
        outcomes = Counter(row["reason"] for row in own)
        assert outcomes == {
            "duplicate": 1, "canary": 1, "truncated": 1, "not_picture": 1, "http_500": 1,
            "robots": 1, "http_404": 1,
        }  # fmt: skip
        addresses = {one for pair in EDITS for one in pair}
        assert images.num_rows + len(own) == len(addresses)
        given = made.table("given.parquet").to_pylist()
        assert Counter(row["status"] for row in given) == {
            "ok": 2, "picture_stopped_by_safety": 2, "picture_made_of_stopped": 2,  # /c.png
            "picture_truncated": 1,
            "picture_not_picture": 1, "picture_http_500": 1, "picture_robots": 1,
            "picture_http_404": 1,
        }  # fmt: skip
        assert server.asked("/a.png") == 1 and server.asked("/busy") == 2
        before = {path: server.asked(path) for path in ("/a.png", "/c.png", "/stop", "/broken")}
        second = again(tmp_path, server).run("ingest")
        assert second.table("images").drop(["source"]) == images.drop(["source"])
        after = {path: server.asked(path) for path in before}
        assert after == {"/a.png": 1, "/c.png": 1, "/stop": 2, "/broken": 2}


def test_what_the_gate_stops_leaves_neither_bytes_nor_address(tmp_path: Path) -> None:
    with web(ROUTES) as server:
        made = harness(tmp_path, server).run("ingest")
    kept = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert all(canary_png(PLANTED) not in path.read_bytes() for path in kept)
    stop = f"{server.url}/stop"
    for name in ("images", "rejects.parquet", "given.parquet", "decisions.parquet"):
        text = str(made.table(name).to_pylist())
        assert stop not in text
    assert sum(scene_png(2) == path.read_bytes() for path in kept) == 1  # another is there


def test_a_list_that_grew_forgets_what_was_kept(tmp_path: Path) -> None:
    with web(ROUTES) as server:
        harness(tmp_path, server).run("ingest")
        digest = hashlib.sha256(scene_png(2)).hexdigest()
        (cached,) = (tmp_path / "home" / "cache" / "web").rglob(digest)
        listed = tmp_path / "list.csv"
        head = f"# provider: test\n# version: 1\n# date: {dt.date.today()}\n"
        listed.write_text(f"{head}type,value\nsha256,{digest}\n")
        made = again(tmp_path, server, hash_lists=(str(listed),)).run("ingest")
        reasons = Counter(made.table("rejects.parquet")["reason"].to_pylist())
        assert reasons["hash_match"] == 1 and not cached.exists()


def test_where_the_gate_fails_nothing_is_kept_that_was_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web(ROUTES) as server:
        used = harness(tmp_path, server)
        with monkeypatch.context() as patch:
            patch.setattr(PdqIndex, "nearest", lambda self, query: None)
            with pytest.raises(CanaryError, match="nothing of this run is kept"):
                used.run("ingest")
        assert server.asked("/a.png") == 1
        cache = tmp_path / "home/cache/web"  # beside it: whom to ask when again
        kept = [path for name in ("bytes", "addresses") for path in (cache / name).rglob("*")]
        assert not [path for path in kept if path.is_file()]
        assert used.run("ingest").table("images").num_rows and server.asked("/a.png") == 2
