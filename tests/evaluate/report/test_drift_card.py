"""The report's section on edits in several turns."""

from pathlib import Path

import pytest

from kontext.evaluate.drift.chains import CHAINS
from kontext.evaluate.drift.result import COMPARED, Drift
from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.builder import figure, templates
from kontext.evaluate.report.charts import drawable
from kontext.evaluate.report.drift_card import drift_card
from tests.evaluate.drift.test_result import measured
from tests.evaluate.drift.world import COMPONENTS, scripts


@pytest.fixture(scope="module")
def drift() -> Drift:
    planted = measured()
    rows = {"kept_detail": "codec", "thresholded": "identity", "jpeg": "codec"}
    names = {name: rows.get(name, name) for name in CHAINS}
    return Drift(
        scripts(),
        {name: planted.measured[own] for name, own in names.items()},
        {name: planted.outputs[own] for name, own in names.items()},
    )


def test_the_section_has_curves_half_lives_and_pictures(drift: Drift, tmp_path: Path) -> None:
    card = drift_card(drift, Assets(tmp_path))
    page = templates(figure=figure).get_template("turns.html").render(r={"drift": card})
    assert f"{COMPONENTS} scripts of 8 turns" in page
    assert page.count("<svg") == (7 if drawable() else 0)
    lives, ways = card.tables
    assert [row[0] for row in lives.rows] == [chain.title for chain in CHAINS.values()]
    by_title = {row[0]: row[1:] for row in lives.rows}
    assert by_title["Identity"][0].startswith("1") and by_title["Identity"][1].startswith("> 8")
    assert len(ways.rows) == 4 and ways.rows[0][1].endswith("%")
    colour = 1 + COMPARED.index("colour")
    assert "24.00" in ways.rows[0][colour] and ways.rows[1][colour].endswith("*")
    for path in (shot.path for story in card.stories for _, row in story.rows for shot in row):
        assert (tmp_path / path).is_file() and path in page
    assert "keep the image unchanged" in page and "(taken back)" in page


def test_a_run_without_scripts_says_why(tmp_path: Path) -> None:
    card = drift_card(Drift(type(scripts())(why="there is nothing")), Assets(tmp_path))
    page = templates(figure=figure).get_template("turns.html").render(r={"drift": card})
    assert "Not measured: there is nothing." in page and "<table" not in page
