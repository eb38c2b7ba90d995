import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.pdq import photographs
from flows import cli
from kontext.errors import GateError, SourceError
from kontext.safety.hash_test import measure as measuring
from kontext.safety.hash_test.measure import FalseMatches, Result, Row, measure
from kontext.safety.hash_test.page import page
from kontext.safety.hash_test.transforms import REQUIRED, rgb_of, transforms
from kontext.safety.rates import exact
from tests.safety.hash_test.clouds import clouds

NONE = FalseMatches(0, 0, 0, 0, exact(0, 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("photographs")
    for number, rgb in enumerate(photographs(5, 0.2)):
        Image.fromarray(rgb).save(made / f"{number}.png")
    Image.fromarray(rgb[:, ::-1]).save(made / "5.jpg")  # the last one, mirrored
    Image.new("RGB", (400, 400), "white").save(made / "6.png")  # nothing to see
    Image.new("RGB", (90, 900)).save(made / "7.png")  # too small a side
    (made / "8.png").write_bytes(b"no picture")
    return made


def test_there_are_thirty_transforms_and_more_of_every_kind() -> None:
    every = transforms()
    assert len(every) >= 30 and len({(t.family, t.name) for t in every}) == len(every)
    counts = {family: sum(t.family == family for t in every) for family in REQUIRED}
    assert counts["JPEG"] >= 5 and counts["orientation"] == 7
    assert {"watermark", "crop", "border", "rotation"} <= {t.family for t in every}
    rgb = next(photographs(1, 0.05))
    picture = Image.fromarray(rgb)
    changed = [rgb_of(t.apply(picture)) for t in every]
    assert all(one.shape != rgb.shape or (one != rgb).any() for one in changed)
    assert (np.asarray(picture) == rgb).all()


def test_recall_false_matches_and_what_is_too_plain(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "FEWEST", 1)
    files = measuring.pictures_in([folder])
    assert [path.stem for path in files] == ["0", "1", "2", "3", "4", "5", "6"]
    seen: list[tuple[int, int]] = []
    result = measure(files, 4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 4) for n in (1, 2, 3, 4)]
    rows = {(row.family, row.name): row for row in result.rows}
    assert result.pictures == 4 and result.plain == 1
    for name in ("JPEG", "orientation", "mild color"):
        own = [row for row in result.rows if row.family == name]
        assert all((row.gate.hits, row.gate.of, row.plain.of) == (3, 3, 1) for row in own)
    assert rows["crop", "10 %"].gate.hits == 0 < rows["crop", "10 %"].distances[0]
    border = rows["border", "10 %"]
    assert border.gate.hits == 3 and border.pdq.hits == 0  # the gate looks inside of it
    assert result.false == FalseMatches(6, 15, 1, 1, exact(0, 15))
    assert result.cut_outs == FalseMatches(6, 0, 0, 0, exact(0, 0))
    assert not result.failed
    assert not result.false.named
    text = page(result)
    assert (
        "Not measured" in text
        and "Their names" not in text
        and "10 %" in text
        and "data:image/png;base64," in text
    )
    json.dumps(result.record())


def test_false_matches_are_those_of_different_pictures_and_have_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "FEWEST", 1)
    clouds(0, 1.0).save(tmp_path / "0.png")
    clouds(1, 0.8).save(tmp_path / "1.png")
    clouds(1, 0.9).save(tmp_path / "2.jpg")  # the last one, lighter
    false = measure(measuring.pictures_in([tmp_path]), 1).false
    assert (false.pairs, false.matches, false.same, false.rate.hits) == (3, 3, 1, 2)
    assert [name.split(":")[0] for name in false.named] == ["1.png, 0.png", "2.jpg, 0.png"]
    made = Result(3, 0, [], false, NONE, {})
    assert made.failed == ["false matches"] and false.named[0] in page(made)


def test_cut_outs_are_counted_beside_and_not_among_whole_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "FEWEST", 1)
    clouds(0, 1.0).save(tmp_path / "0.png")
    clouds(1, 0.8).save(tmp_path / "1.png")
    for number, clear in ((2, 44), (3, 20)):  # 11 % and 5 % of the rows
        thing = clouds(number, 0.9)
        thing.putalpha(Image.fromarray(np.where(np.arange(400) < clear, 0, 255).astype(np.uint8)[
            :, None
        ].repeat(400, axis=1)))  # fmt: skip
        thing.save(tmp_path / f"{number}.png")
    result = measure(measuring.pictures_in([tmp_path]), 1)
    assert (result.false.pictures, result.false.pairs) == (3, 3)
    assert (result.cut_outs.pictures, result.cut_outs.pairs) == (4, 3)  # 2 with 0, 1 and 3
    assert all("2.png" in name for name in result.cut_outs.named)
    assert not any("2.png" in name for name in result.false.named)
    assert "Cut-outs" in page(result)


def test_too_few_pictures_are_refused(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"7 pictures.*500 are needed.*endless-sky-data"):
        measuring.pictures_in([folder])


def test_intervals_are_those_of_clopper_and_pearson() -> None:
    assert exact(0, 0).value == 0
    low, high = exact(0, 299), exact(299, 299)
    assert low.low == 0 and low.high == pytest.approx(1 - 0.025 ** (1 / 299))
    assert high.high == 1 and high.low == pytest.approx(0.025 ** (1 / 299))
    some = exact(495, 500)
    assert (round(some.low, 4), round(some.high, 4)) == (0.9768, 0.9967)


def row(family: str, hits: int, of: int = 1000) -> Row:
    rate = exact(hits, of)
    return Row(family, "x", 1, family in REQUIRED, rate, exact(0, 0), rate, (0, 1, 2, 3, 4))


@pytest.mark.parametrize(
    ("hits", "false", "failed"),
    [(990, 1, []), (989, 1, ["JPEG x"]), (1000, 2, ["false matches"])],
)
def test_it_fails_below_what_is_required(hits: int, false: int, failed: list[str]) -> None:
    result = Result(
        1000, 0, [row("JPEG", hits), row("crop", 3)],
        FalseMatches(1500, 1_124_250 - 124_250, 9, 9 - false, exact(false, 1_000_000)), NONE, {},
    )  # fmt: skip
    assert result.failed == failed
    assert ("Not reached" in page(result)) == bool(failed)


def test_the_command_writes_a_page_and_fails_where_recall_is_low(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "FEWEST", 1)
    said = iter([exact(3, 3), exact(0, 3)])
    for rate in said:
        result = Result(
            3, 0, [Row("JPEG", "x", 1, True, rate, exact(0, 0), rate, (0, 1, 2, 3, 4))],
            FalseMatches(2, 1, 0, 0, exact(0, 1)), NONE, {},
        )  # fmt: skip
        monkeypatch.setattr(measuring, "measure", lambda *_, made=result: made)
        output = tmp_path / "page.html"
        found = CliRunner().invoke(cli.app, ["safety", "test", str(folder), "-o", str(output)])
        record = json.loads(output.with_suffix(".json").read_text())
        assert re.search(r"JPEG +x +(100|0)\.0%", found.output) and record["not_measured"]
        if rate.hits:
            assert found.exit_code == 0
        else:
            assert isinstance(found.exception, GateError)
