import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kontext.engine.stage import Stage
from kontext.evaluate import report
from kontext.evaluate.metrics import Measured
from kontext.evaluate.report import diagnosis_card
from kontext.evaluate.report.assets import Assets, contact_sheet, png_bytes
from kontext.evaluate.report.builder import duration, figure, heat, publish_copy, size, templates
from kontext.evaluate.report.cards import best_items, disputed_items, worst_items
from kontext.evaluate.report.charts import MUTED, SERIES, Curve, chart, line_chart, smooth
from kontext.evaluate.report.lineage import Node, drawing
from kontext.evaluate.report.model import HeatMap, Key
from kontext.evaluate.score import Scores
from kontext.evaluate.statistics import Interval
from kontext.evaluate.steps import Quality


def test_smoothing_by_hand() -> None:
    assert smooth(np.array([1.0, 2.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.0]
    assert smooth(np.array([1.0, np.nan, 5.0]), 3).tolist() == [1.0, 3.0, 5.0]
    assert smooth(np.array([4.0, 5.0]), 1).tolist() == [4.0, 5.0]


def test_charts_carry_theme_colours_and_no_fixed_ones() -> None:
    x = np.arange(30.0)
    svg = line_chart([Curve("a", x, x), Curve("b", x, -x, 1)], "step", "loss", marks=[(5, "joint")])
    assert "var(--c1)" in svg and "var(--c2)" in svg and "var(--muted)" in svg
    assert MUTED not in svg and SERIES[0] not in svg
    assert ">joint</text>" in svg and ">loss</text>" in svg and "<style" not in svg
    assert "http" not in svg


def test_charts_are_reproducible_and_their_ids_do_not_collide() -> None:
    x = np.arange(30.0)
    one, again = (line_chart([Curve("a", x, x)], "step", "loss") for _ in range(2))
    other = line_chart([Curve("a", x, x + 1)], "step", "loss")
    assert one == again
    ids = [{part.split('"')[0] for part in svg.split(' id="')[1:]} for svg in (one, other)]
    assert ids[0] and not ids[0] & ids[1]


def test_long_names_of_curves_take_no_width_from_them() -> None:
    x = np.arange(1.0, 9.0)
    names = [f"a name {n}, longer than there is room in a drawing" for n in range(8)]
    lines = [Curve(name, x, x * n, n, dashed=n == 7) for n, name in enumerate(names)]
    lines.append(Curve("", x, x, 0, faint=True))
    made = chart("T", "c", lines, "turn", "y")
    assert made.keys == tuple(Key(name, n % 6, n == 7) for n, name in enumerate(names))
    assert "a name" not in made.svg
    width = float(re.findall(r'viewBox="0 0 ([\d.]+)', made.svg)[0])
    drawn = [
        [float(at) for at in re.findall(r"[ML] ([\d.]+)", path)]
        for path in re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--c', made.svg)
    ]
    assert len(drawn) >= len(lines)
    assert max(max(path) - min(path) for path in drawn) > 0.8 * width
    assert ">2.5<" not in made.svg  # there is no such turn
    assert chart("T", "c", lines[:1], "turn", "y").keys == ()  # the title says it


def test_a_chart_of_nothing_is_empty() -> None:
    assert line_chart([Curve("a", np.arange(2.0), np.array([np.nan, np.nan]))], "x", "y") == ""


def chain() -> list[Node]:
    return [
        Node(Stage(name="a"), "1" * 16),
        Node(Stage(name="b", inputs=("a",)), "2" * 16),
        Node(Stage(name="c", inputs=("a", "b")), "3" * 16),
        Node(Stage(name="d", inputs=("b", "c", "elsewhere"), pool="gpu")),
    ]


def test_lineage_draws_a_box_per_stage_and_an_arrow_per_edge() -> None:
    svg = templates().get_template("lineage.svg").render(drawing(chain(), columns=2))
    assert svg.count("<rect") == 4 and svg.count('class="edge"') == 3
    assert "1111111111<" in svg and 'class="box gpu pending"' in svg and ">next<" in svg


def test_assets_store_equal_pictures_once_and_enlarge_small_ones(tmp_path: Path) -> None:
    assets = Assets(tmp_path)
    picture = np.zeros((16, 16, 3), np.uint8)
    assert assets.image(picture) == assets.image(picture.copy())
    assert len(list((tmp_path / "assets").iterdir())) == 1
    assert Image.open(tmp_path / assets.image(picture)).size == (192, 192)
    large = np.zeros((300, 200, 3), np.uint8)
    assert Image.open(io.BytesIO(png_bytes(large, 192))).size == (200, 300)


def test_assets_stay_in_their_folder(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Assets(tmp_path).add("assets/../../x.png", b"")


@pytest.mark.parametrize("grid", ["teaser", "cards", "pictures", "samples"])
def test_one_picture_alone_is_no_larger_than_among_others(grid: str) -> None:
    """auto-fit would give it the columns that the others leave empty."""
    css = (Path(report.__file__).parent / "report.css").read_text()
    (rule,) = re.findall(rf"^\.{grid} \{{(.*)\}}$", css, re.MULTILINE)
    assert "repeat(auto-fill, minmax(" in rule


def test_contact_sheet_holds_all_pictures_and_fits_the_run_page() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 4, 64, 64, 3)).astype(np.uint8)
    sheet = contact_sheet([list(row) for row in noise], ["a long instruction " * 9] * 8, ["c"] * 4)
    assert len(sheet) < 1_000_000
    assert Image.open(io.BytesIO(sheet)).size == (8 + 4 * 104, 24 + 8 * 124)


def test_publish_copy_replaces_the_latest_and_keeps_the_digest(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "assets").mkdir(parents=True)
    (source / "index.html").write_text("one")
    (source / "assets" / "old.png").write_bytes(b"1")
    publish_copy(source, tmp_path / "home", "d1")
    (source / "assets" / "old.png").unlink()
    (source / "index.html").write_text("two")
    latest = publish_copy(source, tmp_path / "home", "d2")
    assert latest.read_text() == "two"
    assert not (latest.parent / "assets" / "old.png").exists()
    assert (tmp_path / "home/report/d1/index.html").read_text() == "one"
    assert sorted(p.name for p in (tmp_path / "home/report").iterdir()) == ["d1", "d2", "latest"]


def test_runs_that_end_together_each_publish_their_report(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"s{number}" / "assets").mkdir(parents=True)
        (tmp_path / f"s{number}" / "index.html").write_text(str(number))
        for picture in range(100):
            (tmp_path / f"s{number}" / "assets" / f"{picture}.png").write_bytes(b"1")

    def publish(number: int) -> Path:
        return publish_copy(tmp_path / f"s{number % 4}", tmp_path / "home", f"d{number}")

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(publish, range(16)))) == 16
    kept = sorted(p.name for p in (tmp_path / "home/report").iterdir())
    assert kept == sorted(["latest", *(f"d{number}" for number in range(16))])
    assert all((tmp_path / "home/report" / name / "assets" / "99.png").exists() for name in kept)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (True, "True"), (12345, "12,345"), (1234.5, "1,234"), (12.34, "12.3"),
        (0.01234, "0.01234"), (1.2345, "1.23"), ("x", "x"),
    ],
)  # fmt: skip
def test_figures(value: object, text: str) -> None:
    assert figure(value) == text


def test_units() -> None:
    assert [size(n) for n in (12, 1500, 25_000, 3_400_000, 2.5e9)] == [
        "12 B", "1.5 kB", "25 kB", "3.4 MB", "2.5 GB",
    ]  # fmt: skip
    assert [duration(s) for s in (4.2, 61, 600, 7200)] == ["4.2 s", "61 s", "10.0 min", "2.0 h"]


def test_heat_is_clamped_and_flat_maps_are_plain() -> None:
    made = HeatMap("", "", (), (), 1.0, 3.0)
    assert [heat(made, v) for v in (0.0, 1.0, 2.0, 9.0)] == [0.0, 0.0, 42.5, 85.0]
    assert heat(HeatMap("", "", (), (), 1.0, 1.0), 1.0) == 0.0


def judged(passes: list[int], errors: list[float] | None = None) -> dict[str, Measured]:
    ones = np.ones(len(passes))
    error = Measured(np.array(errors or ones), ones)
    return {"success": Measured(np.array(passes, float), ones), "mae_ratio": error}


def test_best_worst_and_disputed_edits_are_chosen() -> None:
    scores = Scores(
        table={},
        per_item={
            "student": judged([1, 1, 1, 0, 0, 0], [0.4, 0.1, 0.2, 0.6, 0.9, 0.7]),
            "teacher": judged([0, 1, 1, 0, 0, 1]),
            "student_reworded": judged([1, 1, 0, 0, 0, 0]),
        },
        unfit=[],
        goals=[],
        autoencoder={},
        truths={},
    )
    every = range(6)
    assert best_items(scores, every) == [1, 2] and worst_items(scores, every) == [4, 5]
    assert disputed_items(scores, every) == [0, 5]  # the nearest to half of the error first
    assert disputed_items(scores, [1, 3, 4]) == []


def test_a_number_of_steps_is_best_where_none_is_faster_and_as_good() -> None:
    def quality(steps: int, success: float) -> Quality:
        found = Interval(success, 0.0, 1.0, 9, 9, "cluster-wilson")
        return Quality("student", steps, steps, found, found)

    rows = [quality(1, 0.2), quality(2, 0.6), quality(4, 0.5), quality(8, 0.6), quality(28, 0.7)]
    assert [row.steps for row in rows if diagnosis_card.best(row, rows)] == [1, 2, 28]
