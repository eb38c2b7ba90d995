from kontext.engine.stage import Stage
from kontext.evaluate.run_lineage import run_lineage
from schemas.manifest import Manifest

STAGES = {
    "a": Stage(name="a", section=""),
    "b": Stage(name="b", section="", inputs=("a",)),
    "c": Stage(name="c", section="", inputs=("a", "b")),
}


def manifest(stage: str, inputs: dict[str, str]) -> Manifest:
    return Manifest(
        stage=stage, digest=stage * 4, code_digest="code", config={"x": 1}, inputs=inputs, files=[],
        metrics={}, notes=[], recipe="r", created_at="", seconds=0, git_commit="g", packages={},
        kernels={},
    )  # fmt: skip


def test_inputs_of_inputs_are_found_through_manifests() -> None:
    known = {"c": manifest("c", {"a": "aaaa", "b": "bbbb"})}
    trail = run_lineage(known, STAGES)
    assert trail.digests == {"a": "aaaa", "b": "bbbb", "c": "cccc"}
    assert trail.edges == (("a", "b"), ("a", "c"), ("b", "c"))
    rows = {row["stage"]: row for row in trail.as_json()["artifacts"]}
    assert rows["c"]["inputs"] == {"a": "aaaa", "b": "bbbb"} and rows["c"]["config"] == {"x": 1}
    assert "config" not in rows["a"]  # no manifest at hand: nothing invented


def test_manifest_edges_win_over_the_graph() -> None:
    trail = run_lineage({"c": manifest("c", {"b": "bbbb"})}, STAGES)
    assert ("a", "c") not in trail.edges and ("b", "c") in trail.edges


def test_mermaid_has_one_box_per_artifact() -> None:
    trail = run_lineage({"b": manifest("b", {"a": "1234567890abcdef"})}, STAGES)
    text = trail.mermaid()
    assert 'a["a<br/>1234567890ab"]' in text and "a --> b" in text
