import re

from kontext.stages import STAGES
from kontext.store.artifacts.lineage import reduced_edges
from tasks.summary import Row, mermaid, summary
from tests.flows.toy_stages import GRAPH


def _rows() -> list[Row]:
    return [
        Row("ingest", "a" * 16, "reused", 61.0, {"images": 1200}),
        Row(
            "mine",
            "b" * 16,
            "ran",
            2.0,
            {"pairs": 10, "share": 0.5},
            run_id="r1",
            page_id="p1",
            note="made mine/b in 2.0 s; resumed from step 1 of 4",
        ),
        Row("index", "c" * 16, "failed", run_id="r2", error="KontextError: told to | fail"),
        Row("distill", "d" * 16, "waiting"),
    ]


def test_summary_says_it_all() -> None:
    text = summary("Pipeline, recipe ci", _rows(), GRAPH, report="/home/report/index.html")
    assert text.startswith("# Pipeline, recipe ci\n\n1 ran, 1 reused, 1 failed, 1 waiting")
    assert "> **index failed:** KontextError: told to | fail" in text
    assert (
        "| [**mine**](/v2/artifacts/artifact/p1) | ran: resumed from step 1 of 4 | pairs: 10"
        in text
    )
    assert "2.0\u00a0s | [run](/v2/runs/flow-run/r1) | `bbbbbbbb` |" in text
    assert "[run](/v2/runs/flow-run/r1)" in text
    assert "| **ingest** | reused |" in text  # nobody knows its page
    assert "(1\u00a0min\u00a001\u00a0s)" in text  # the reused artifact's own time
    assert "pairs: 10, share: 0.5" in text
    assert "**Report:** `/home/report/index.html`" in text
    shown = summary("t", _rows(), GRAPH, "/home/report/index.html", "/report/f00/index.html")
    assert "**Report:** [open it](/report/f00/index.html) · `/home/report/index.html`" in shown


def test_mermaid_names_every_stage_once_and_quotes_labels() -> None:
    text = mermaid(_rows(), GRAPH)
    nodes = re.findall(r'^  (s_\w+)\["([^"]+)"\]:::(\w+)$', text, re.MULTILINE)
    assert [(node, state) for node, _, state in nodes] == [
        ("s_ingest", "reused"),
        ("s_mine", "ran"),
        ("s_index", "failed"),
        ("s_distill", "waiting"),
    ]
    for state in ("reused", "ran", "failed", "waiting"):
        assert f"classDef {state} " in text


def test_drawn_edges_keep_every_dependency_reachable() -> None:
    drawn = reduced_edges({stage.name: stage.inputs for stage in STAGES.values()})
    assert len(drawn) < sum(len(stage.inputs) for stage in STAGES.values())
    below: dict[str, set[str]] = {name: {name} for name in STAGES}
    for name in reversed(list(STAGES)):
        for source, target in drawn:
            if source == name:
                below[name] |= below[target]
    for stage in STAGES.values():
        for source in stage.inputs:
            assert stage.name in below[source]


def test_stale_stages_outside_a_run_are_marked() -> None:
    rows = [Row("ingest", "a" * 16, "ran"), Row("mine", "b" * 16, "stale")]
    assert "| **mine** | stale, not part of this run |" in summary("t", rows, GRAPH)
    assert "classDef stale fill:#fff7ed,stroke:#dc2626" in mermaid(rows, GRAPH)
