"""The summary of a pipeline run, with its lineage diagram, as markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kontext.engine.stage import Stage
from kontext.store.artifacts.lineage import flowchart, reduced_edges
from tasks.markdown import artifact_link, duration, metrics_line, page_key, run_link, table

SUMMARY_KEY = "pipeline-summary"
_WORDS = {
    "ran": "ran",
    "reused": "reused",
    "failed": "**FAILED**",
    "running": "running …",
    "waiting": "waiting",
    "skipped": "not part of this run",
    "stale": "stale, not part of this run",
    "cancelled": "**cancelled**",
}
_COLOURS = {
    "ran": "fill:#d1fae5,stroke:#059669,color:#064e3b",
    "reused": "fill:#e0f2fe,stroke:#0284c7,color:#0c4a6e",
    "failed": "fill:#fee2e2,stroke:#dc2626,color:#7f1d1d",
    "cancelled": "fill:#fee2e2,stroke:#dc2626,color:#7f1d1d",
    "running": "fill:#fef3c7,stroke:#d97706,color:#78350f",
    "waiting": "fill:#f8fafc,stroke:#94a3b8,color:#475569",
    "skipped": "fill:#f8fafc,stroke:#cbd5e1,color:#94a3b8,stroke-dasharray:4",
    "stale": "fill:#fff7ed,stroke:#dc2626,color:#7f1d1d,stroke-dasharray:4",
}


@dataclass
class Row:
    """One stage of a pipeline run, as far as it is known."""

    stage: str
    digest: str
    state: str = "waiting"  # a key of _WORDS
    seconds: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    page_id: str = ""  # of the stage's summary artifact
    error: str = ""
    note: str = ""  # what happened, in words


def summary(
    title: str,
    rows: Sequence[Row],
    graph: Mapping[str, Stage],
    report: str = "",
    report_page: str = "",
    command: str = "",
) -> str:
    """The run's page: how it went, errors with what to do, the report, the stages, the lineage.

    `report` is the report's file, `report_page` the path under which the server shows it;
    `command` continues a run that failed.
    """
    counts = {state: sum(row.state == state for row in rows) for state in _WORDS}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    cells = [
        (
            _stage_cell(row),
            _happened(row),
            metrics_line(row.metrics, graph[row.stage].figures),
            _time_cell(row),
            f"[run]({run_link(row.run_id)})" if row.run_id else "—",
            f"`{row.digest[:8]}`",
        )
        for row in rows
    ]
    headers = ("stage", "what happened", "key figures", "time", "run", "digest")
    if counts["reused"]:
        said += ". Times in brackets are from when the reused artifact was made"
    parts = [f"# {title}", f"{said}."]
    errors = [f"> **{row.stage} {row.state}:** {row.error}" for row in rows if row.error]
    parts += errors
    if errors and command:
        parts.append(f"Continue with `{command}`, or *Retry* in the run's menu.")
    if report:
        link = f"[open it]({report_page}) · " if report_page else ""
        parts.append(f"**Report:** {link}`{report}`")
    parts.append(table(headers, cells))
    parts.append("## Lineage\n\n" + mermaid(rows, graph))
    return "\n\n".join(parts) + "\n"


def _happened(row: Row) -> str:
    """The state, and what a person would not expect; the time and the digest have columns."""
    note = row.note.partition("; ")[2] if row.state == "ran" else row.note
    return f"{_WORDS[row.state]}: {note}" if note else _WORDS[row.state]


def _stage_cell(row: Row) -> str:
    """The stage's name, linked to the page of the run that made it, where there is one."""
    if not row.page_id:
        return f"**{row.stage}**"
    return f"[**{row.stage}**]({artifact_link(page_key(row.stage), row.page_id)})"


def _time_cell(row: Row) -> str:
    """Spaces that do not break keep the column on one line."""
    shown = duration(row.seconds).replace(" ", "\u00a0")
    return f"({shown})" if row.state == "reused" else shown


def mermaid(rows: Sequence[Row], graph: Mapping[str, Stage]) -> str:
    """The stage graph with digests, coloured by state, as a fenced block of markdown."""
    names = {row.stage: "s_" + row.stage.replace("-", "_") for row in rows}
    boxes = {
        f"{names[row.stage]}:::{row.state}": f"{row.stage}<br/>{row.digest[:8]} · {row.state}"
        for row in rows
    }
    drawn = reduced_edges({stage.name: stage.inputs for stage in graph.values()})
    chart = flowchart(boxes, [(names[a], names[b]) for a, b in drawn if {a, b} <= names.keys()])
    colours = [f"  classDef {state} {_COLOURS[state]}\n" for state in {r.state: 0 for r in rows}]
    return "```mermaid\n" + chart + "".join(colours) + "```"
