"""The page of pairs: what a query names is drawn, and what safety rejected is not."""

import base64
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from flows import cli
from kontext.data.gallery.cards import Card, _card, cards_of
from kontext.data.gallery.page import page
from kontext.data.images import ImageBank
from kontext.data.pixels import encode_png, pixel_id
from kontext.errors import CatalogError
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.catalog.catalog import Catalog
from kontext.store.objects import open_store
from schemas.manifest import Manifest
from schemas.tables import IMAGES, PIXELS
from tests.stages.stage_harness import rows_table
from tests.store.lake_rows import dataset, rows

PICTURES = [np.full((9, 12, 3), value, np.uint8) for value in (10, 90, 200)]
PNG = {pixel_id(picture): encode_png(picture) for picture in PICTURES}
IDS = list(PNG)
PAIRS = {"good": "a" * 64, "same": "b" * 64, "unsafe": "c" * 64}
WORDS = "make it <b>‘bright’</b>"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an accepted pair, one rejected for its quality, one for safety."""
    folder = tmp_path_factory.mktemp("gallery")
    store = ArtifactStore(open_store(f"file://{folder}/store"), folder / "cache")
    _ingest(store)
    plan = {"good": (0.5, 0.0), "same": (0.001, 0.0), "unsafe": (0.5, 0.9)}
    pairs = [
        {"pair_id": PAIRS[name], "context_ids": IDS[1:number], "target_id": IDS[0]}
        | {"relation_class": "local", "relation": "light", "license_spdx": "MIT"}
        for number, name in zip((3, 2, 2), plan, strict=True)
    ]
    scores = [
        {"pair_id": PAIRS[name], "l1": l1, "nsfw_max": nsfw, "ssim": 0.25} | {"change_kept": 1.0}
        for name, (l1, nsfw) in plan.items()
    ]
    captions = [{"pair_id": PAIRS[n], "status": "ok", "instruction": WORDS} for n in plan]
    tables = dataset(0, {"l1_min": 0.01, "nsfw_max": 0.3}) | {
        "images": rows_table(IMAGES, [{"pixel_id": pixel} for pixel in IDS]),
        "pairs": rows("pairs", *pairs),
        "captions": rows("captions", *captions),
        "pair_scores": rows("pair_scores", *scores),
    }
    catalog = Catalog(folder / "catalog.sqlite", f"file://{folder}/store")
    catalog.commit_dataset("mine", "digest", tables, {"ingest": "i"})
    return folder


def _ingest(store: ArtifactStore) -> None:
    writer = store.writer("ingest", "i")
    pixels = [{"pixel_id": pixel, "png": png} for pixel, png in PNG.items()]
    writer.add_table("pixels/000.parquet", rows_table(PIXELS, pixels))
    nothing = {"config": {}, "inputs": {}, "packages": {}, "kernels": {}, "notes": []}
    words = {"code_digest": "", "recipe": "t", "created_at": "2026-01-01T00:00:00Z"}
    writer.commit(
        Manifest.model_validate(
            {"stage": "ingest", "digest": "i", "files": list(writer.files.values()), "metrics": {}}
            | {"seconds": 0, "git_commit": "", **nothing, **words}
        )
    )


def cards(home: Path, query: str, **options: int) -> list[Card]:
    store = open_store(f"file://{home}/store")
    catalog = Catalog(home / "catalog.sqlite", store.url)
    answer = catalog.query(query, dataset="mine")
    return cards_of(answer, catalog, ArtifactStore(store, home / "cache"), "mine", **options)


def test_pairs_are_drawn_with_all_their_pictures(home: Path) -> None:
    good, same, unsafe = cards(home, "select pair_id, l1 * 2 as twice from pair_facts order by 1")
    assert good.target == PNG[IDS[0]] and good.contexts == (PNG[IDS[1]], PNG[IDS[2]])
    assert good.accepted and good.more == {"twice": "1.0"} and good.instruction == WORDS
    assert good.scores["ssim"] == 0.25 and good.licence == "MIT"
    assert same.reasons == ("l1_min",) and same.target  # poor, but nothing that may not be seen
    assert not unsafe.accepted and unsafe.hidden == "not shown: nsfw_max"


def test_what_safety_rejected_is_nowhere_on_the_page(home: Path) -> None:
    (unsafe,) = cards(home, f"select pair_id from pairs where pair_id = '{PAIRS['unsafe']}'")
    assert unsafe.target == b"" and unsafe.contexts == ()
    html = page([unsafe], "t", "q")
    assert "data:image" not in html and "not shown: nsfw_max" in html


def test_the_page_is_whole_and_escapes_texts(home: Path) -> None:
    found = cards(home, "select pair_id from pair_facts order by 1", most=2)
    html = page(found, "Pairs of <mine>", "select '<x>'", left_out=1)
    for png in PNG.values():
        assert base64.b64encode(png).decode() in html
    assert "make it &lt;b&gt;‘bright’" in html and "<b>‘" not in html and "&lt;x&gt;" in html
    assert "2 pairs, 1 more are not shown" in html
    assert "http" not in html  # nothing is fetched


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("select 1 as x", "has no column pair_id"),
        ("select pair_id from pairs where false", "finds no pair"),
        ("select 'f00' as pair_id", "has no pair f00"),
    ],
)
def test_clear_errors(home: Path, query: str, words: str) -> None:
    with pytest.raises(CatalogError, match=words):
        cards(home, query)


def test_the_command_writes_the_page(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(home))
    out = tmp_path / "page.html"
    query = "select pair_id from pair_facts"
    result = CliRunner().invoke(
        cli.app, ["gallery", query, "-o", str(out), "--dataset", "mine", "--most", "1", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"file": str(out), "pairs": 1, "dataset": "mine"}
    assert "2 more are not shown" in out.read_text() and query in out.read_text()


def test_explain_shows_the_pictures_but_not_those_that_safety_rejected(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(home))
    out = tmp_path / "pair.html"

    def explain(name: str, *more: str) -> str:
        command = ["explain", PAIRS[name][:12], "-o", str(out), "--dataset", "mine", *more]
        result = CliRunner().invoke(cli.app, command)
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "evidence" in explain("good") and PAIRS["good"][:12] in out.read_text()
    assert out.read_text().count("data:image/png") == 3
    assert "pictures not shown: nsfw_max" in explain("unsafe")
    assert "data:image/png" not in out.read_text()
    assert json.loads(explain("same", "--json"))["decision"][0]["accept"] is False


def test_an_answer_of_another_kind_is_refused(home: Path) -> None:
    store = open_store(f"file://{home}/store")
    catalog = Catalog(home / "catalog.sqlite", store.url)
    with pytest.raises(CatalogError, match="pair_id"):
        cards_of(pa.table({"n": [1]}), catalog, ArtifactStore(store, home / "cache"), "mine")


def test_a_risk_may_be_called_like_a_score_of_quality(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plug-in names its own risks, and what one stops is not drawn whatever its name."""
    query = f"select * from pair_facts where pair_id = '{PAIRS['same']}'"
    store = open_store(f"file://{home}/store")
    (facts,) = Catalog(home / "catalog.sqlite", store.url).query(query, dataset="mine").to_pylist()
    facts["reject_reasons"] = ["edit_odd_max"]
    bank = ImageBank(ArtifactStore(store, home / "cache").open("ingest", "i"))
    assert _card({}, facts, bank).target
    monkeypatch.setattr("kontext.data.gallery.cards.risks", lambda: {"edit_odd": None})
    assert _card({}, facts, bank).hidden == "not shown: edit_odd_max"
    facts["reject_reasons"] = ["caption_refused"]  # by the model that was asked to describe it
    assert _card({}, facts, bank).hidden == "not shown: caption_refused"
    facts["reject_reasons"] = ["caption_malformed"]
    assert _card({}, facts, bank).target
