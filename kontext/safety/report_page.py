"""The safety report as one HTML page that opens anywhere."""

from pathlib import Path

from kontext.safety.report import Count, SafetyReport

CHANGES_RESULTS = False  # shows what is there

_TEMPLATE = Path(__file__).with_name("report.html")


def report_page(report: SafetyReport) -> str:
    """The HTML of a report."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["words"] = lambda text: str(text).replace("_", " ")
    environment.filters["day"] = lambda moment: str(moment)[:16].replace("T", " ")
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        stopped=[row for row in report.decisions if row.reason],
        passed=[row for row in report.decisions if not row.reason],
        refused=_sum(report.refusals),
        canaries=(sum(r.stopped for r in report.runs), sum(r.canaries for r in report.runs)),
    )


def _sum(rows: tuple[Count, ...]) -> int:
    return sum(row.count for row in rows)
