from kontext.evaluate.report.verdict import unfit_line


def test_unfit_metrics_are_one_line_with_counts() -> None:
    rows = [
        {"metric": "clip_text", "category": "local", "why": "identity ranks first"},
        {"metric": "clip_text", "category": "style", "why": "identity ranks first"},
        {"metric": "outside_l1", "category": "style", "why": "identity is beaten"},
    ]
    line = unfit_line(rows)
    assert "\n" not in line
    assert line.startswith("2 metrics are unfit") and "(1 in local, 2 in style)" in line
    assert unfit_line([]) == "every metric is fit in every category"
