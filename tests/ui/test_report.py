"""The report on a phone: nothing is cut, and only boxes made for it scroll sideways."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.builder import figure, templates
from kontext.evaluate.report.charts import Curve, chart
from tests.stages.finished_run import evaluated_run

_WIDE = """() => [...document.querySelectorAll('body *')].filter(e =>
  !e.closest('.scroll') && !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1
).map(e => e.outerHTML.slice(0, 90))"""
_CUT = """() => [...document.querySelectorAll('body *')].filter(e =>
  !e.closest('svg') && !e.matches('.scroll') && e.scrollWidth > e.clientWidth + 1
  && getComputedStyle(e).overflowX != 'visible').map(e => e.outerHTML.slice(0, 90))"""
_OUT_OF_DRAWING = """() => [...document.querySelectorAll('svg text')].filter(e => {
  const own = e.getBoundingClientRect(), all = e.closest('svg').getBoundingClientRect()
  return own.width && (own.right > all.right + 2 || own.left < all.left - 2)
}).map(e => e.textContent)"""


@pytest.fixture(params=[320, 390, 800])
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def page(browser: Any, width: int) -> Iterator[Any]:
    found = browser.new_page(viewport={"width": width, "height": 844})
    yield found
    found.close()


@pytest.fixture(scope="module")
def report() -> Path:
    return evaluated_run().folder / "home" / "report" / "latest"


@pytest.mark.parametrize("name", ["index.html", "assets/items-local.html"])
def test_nothing_is_cut(page: Any, report: Path, name: str, width: int, shots: Path) -> None:
    page.goto((report / name).as_uri())
    page.screenshot(path=shots / f"report-{Path(name).stem}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [page.evaluate(script) for script in (_WIDE, _CUT, _OUT_OF_DRAWING)] == [[], [], []]


def test_the_first_column_stays_where_a_table_scrolls(page: Any, report: Path, width: int) -> None:
    page.goto((report / "index.html").as_uri())
    found = page.evaluate("""() => [...document.querySelectorAll('.scroll')].filter(box =>
      box.scrollWidth > box.clientWidth + 1).map(box => {
        box.scrollLeft = 9999
        const cell = box.querySelector('tbody tr').children[0].getBoundingClientRect()
        return [cell.left - box.getBoundingClientRect().left, box.scrollLeft]
      })""")
    assert all(abs(left) <= 1 and scrolled > 0 for left, scrolled in found)
    assert found or width > 390


def test_every_verdict_stands_beside_its_title(page: Any, report: Path, width: int) -> None:
    page.goto((report / "index.html").as_uri())
    rows = page.evaluate("""() => [...document.querySelectorAll('.verdict tbody tr')].map(row =>
      ['.name', '.said'].map(part => row.querySelector(part).getBoundingClientRect())
        .map(at => [at.left, at.right, at.top]))""")
    assert len(rows) == 9
    for title, said in rows:
        assert title[1] <= said[0] + 1 and said[1] <= width and abs(said[2] - title[2]) < 30


def test_a_legend_wraps(page: Any, tmp_path: Path, report: Path, width: int) -> None:
    import numpy as np

    x = np.arange(1.0, 9.0)
    made = chart("T", "c", [Curve(f"a curve of the name {n}", x, x, n) for n in range(8)], "x", "y")
    if not made.svg:
        pytest.skip("needs matplotlib")
    macros = templates(figure=figure).get_template("parts.html").module
    style = Assets(tmp_path).add("assets/report.css", (report / "assets/report.css").read_bytes())
    head = f'<!doctype html><link rel="stylesheet" href="{style}"><main>'
    (tmp_path / "index.html").write_text(f"{head}{macros.chart(made)}</main>")  # type: ignore[attr-defined]
    page.goto((tmp_path / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".legend span").count() == 8 and page.evaluate(_WIDE) == []
