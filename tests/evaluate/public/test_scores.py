"""Aggregation against tables worked by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from kontext.evaluate.benches.public import BenchItem, Loaded, PublicBench
from kontext.evaluate.judges import imgedit, viescore
from kontext.evaluate.public.measuring import Measurements
from kontext.evaluate.public.scores import (
    by_category,
    columns,
    disagreement,
    judge_card,
    means,
    outcomes,
)


def loaded(categories: dict[str, int], bases: int = 100) -> Loaded:
    names = [category for category, count in categories.items() for _ in range(count)]
    items = [BenchItem(str(n), name, "edit it", str(n % bases)) for n, name in enumerate(names)]
    bench = PublicBench("T", "MIT", "get", dict.fromkeys(categories, 0), 0)
    return Loaded("t", bench, Path(), tuple(items))


def verdict(item: int, scores: dict[str, float] | None, **more: Any) -> dict[str, Any]:
    row = {"item": str(item), "canary": "", "judge": "m", "pass": 0, "status": "ok", **more}
    return {**row, **(scores or {})}


def vie(success: int, restraint: int, natural: int, clean: int) -> dict[str, float]:
    edit = viescore.EditReply(reasons="", success=success, restraint=restraint)
    quality = viescore.QualityReply(reasons="", natural=natural, clean=clean)
    return dict(viescore.viescore([edit, quality]))


def test_gedit_aggregation_is_the_hand_worked_table() -> None:
    """SC and PQ are smaller numbers of two; O is a root per item; then the mean of the tasks'.

    | item | task         | success, restraint | natural, clean | SC | PQ | O |
    |------|--------------|--------------------|----------------|----|----|---|
    | 0    | color_alter  | 9, 4               | 9, 10          | 4  | 9  | 6 |
    | 1    | color_alter  | 8, 9               | 2, 7           | 8  | 2  | 4 |
    | 2    | ps_human     | 0, 10              | 7, 9           | 0  | 7  | 0 |
    | 3    | ps_human     | 10, 9              | 4, 8           | 9  | 4  | 6 |
    | 4    | ps_human     | 10, 10             | 9, 9           | 10 | 9  | √90 |
    | 5    | text_change  | the reply was prose                                |
    | 6    | text_change  | 1, 3               | 4, 4           | 1  | 4  | 2 |
    """
    data = loaded({"color_alter": 2, "ps_human": 3, "text_change": 2})
    numbers = [(9, 4, 9, 10), (8, 9, 2, 7), (0, 10, 7, 9), (10, 9, 4, 8), (10, 10, 9, 9)]
    verdicts = [verdict(item, vie(*own)) for item, own in enumerate(numbers)]
    verdicts += [verdict(5, None, status="malformed"), verdict(6, vie(1, 3, 4, 4))]
    shown = {c.name: c for c in columns(data, Measurements(), verdicts, viescore.RUBRIC, "m")}
    assert list(shown)[:5] == ["sc", "pq", "o", "changed", "copied"]
    o = by_category(data, shown["o"].values)
    assert o["color_alter"].value == 5 and o["text_change"].value == 2
    assert o["ps_human"].value == pytest.approx((6 + 90**0.5) / 3)
    assert o["mean"].value == pytest.approx((5 + (6 + 90**0.5) / 3 + 2) / 3)
    assert o["all"].value == pytest.approx((6 + 4 + 0 + 6 + 90**0.5 + 2) / 6)
    assert (o["text_change"].n, o["all"].n, o["mean"].n) == (1, 6, 6)  # prose is not a zero
    sc = by_category(data, shown["sc"].values)
    assert sc["mean"].value == pytest.approx((6 + 19 / 3 + 1) / 3)
    pq = by_category(data, shown["pq"].values)
    assert pq["mean"].value == pytest.approx((5.5 + 20 / 3 + 4) / 3)
    card = judge_card(viescore.RUBRIC, verdicts, "m")
    assert card["unusable"] == {"malformed": 1} and card["items"] == 6 and card["fit"] is None


def test_imgedit_aggregation_is_the_hand_worked_table() -> None:
    """The mean of three, to two decimals, then of a type's items, then of the types.

    | item | type   | numbers | score |
    |------|--------|---------|-------|
    | 0    | add    | 5, 4, 4 | 4.33  |
    | 1    | add    | 1, 1, 1 | 1.00  |
    | 2    | remove | 3, 3, 2 | 2.67  |
    | 3    | style  | 1, 4, 4 | 3.00, against the rule |
    | 4    | style  | 4, 4, 4 | 4.00  |
    """
    data = loaded({"add": 2, "remove": 1, "style": 2})
    numbers = [(5, 4, 4), (1, 1, 1), (3, 3, 2), (1, 4, 4), (4, 4, 4)]
    scores = [
        dict(imgedit.score([imgedit.ImgEditReply(reasons="", first=a, second=b, third=c)]))
        for a, b, c in numbers
    ]
    assert [own["score"] for own in scores] == [4.33, 1.0, 2.67, 3.0, 4.0]
    assert [own["overrun"] for own in scores] == [0, 0, 0, 1, 0]
    verdicts = [verdict(item, own) for item, own in enumerate(scores)]
    shown = {c.name: c for c in columns(data, Measurements(), verdicts, imgedit.RUBRIC, "m")}
    found = by_category(data, shown["score"].values)
    by_type = {name: found[name].value for name in ("add", "remove", "style")}
    assert by_type == pytest.approx({"add": 2.665, "remove": 2.67, "style": 3.5})
    assert found["mean"].value == pytest.approx((2.665 + 2.67 + 3.5) / 3)
    assert found["all"].value == pytest.approx(15 / 5)


def test_items_of_one_base_picture_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(0).normal(5, 2, 12), 10)
    alone = by_category(loaded({"local": 120}, bases=1000), values)["local"]
    data = loaded({"local": 120})
    related = Loaded(
        "t",
        data.bench,
        data.folder,
        tuple(BenchItem(i.id, i.category, "edit", str(n // 10)) for n, i in enumerate(data.items)),
    )
    clustered = by_category(related, values)["local"]
    assert clustered.clusters == 12 and alone.clusters == 120
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)


def test_passes_are_averaged_and_their_spread_is_told() -> None:
    verdicts = [
        verdict(0, vie(4, 9, 9, 9)),
        verdict(0, vie(9, 9, 9, 9), **{"pass": 1}),
        verdict(1, vie(9, 9, 4, 4)),
        verdict(1, None, status="unanswered", **{"pass": 1}),
    ]
    assert means(verdicts, "m", "o") == {"0": 7.5, "1": 6}
    card = judge_card(viescore.RUBRIC, verdicts, "m")
    assert card["spread_over_passes"] == pytest.approx(np.std([6, 9], ddof=1))
    assert card["verdicts"] == 4 and card["unusable"] == {"unanswered": 1}


def test_canaries_that_a_judge_likes_make_it_unfit() -> None:
    good = [verdict(n, vie(n % 2, 10, 9, 9), canary="identity") for n in range(5)]
    assert judge_card(viescore.RUBRIC, good, "m")["fit"] is True
    bad = [verdict(n, vie(8, 10, 9, 9), canary="identity") for n in (0, 1)] + good[2:]
    card = judge_card(viescore.RUBRIC, bad, "m")
    assert card["fit"] is False
    assert card["canaries"] == {"identity": {"asked": 5, "answered": 5, "passed": 3}}
    blind = [*good, verdict(0, vie(2, 10, 9, 9), canary="oracle")]
    assert judge_card(viescore.RUBRIC, blind, "m")["fit"] is False
    silent = [verdict(n, None, canary="identity", status="malformed") for n in range(5)]
    assert judge_card(viescore.RUBRIC, silent, "m")["fit"] is False, "prose is no pass"


def test_disagreement_of_two_judges() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 11, 40), rng.integers(0, 11, 40)
    rows = [verdict(n, vie(v, v, v, v)) for n, v in enumerate(a.tolist())]
    rows += [verdict(n, vie(v, v, v, v), judge="w") for n, v in enumerate(b.tolist())]
    found = disagreement(viescore.RUBRIC, rows, ("m", "w"))
    assert found is not None and found["items"] == 40
    assert found["mean_absolute_difference"] == pytest.approx(np.abs(a - b).mean())
    assert found["mean_difference"] == pytest.approx((a - b).mean())
    assert found["far_apart"] == pytest.approx((np.abs(a - b) > 2).mean())
    assert found["rank_correlation"] == pytest.approx(spearmanr(a, b).statistic)
    assert disagreement(viescore.RUBRIC, rows, ("m",)) is None


def test_outcomes_are_counted_by_category() -> None:
    data = loaded({"local": 2, "text": 1})
    rows = {"0": {"outcome": "edited"}, "1": {"outcome": "refused"}, "2": {"outcome": "failed"}}
    assert outcomes(data.items, rows) == {
        "local": {"edited": 1, "refused": 1},
        "text": {"failed": 1},
        "all": {"edited": 1, "refused": 1, "failed": 1},
    }


def test_a_category_without_any_value_leaves_no_mean_of_categories() -> None:
    found = by_category(loaded({"local": 2, "text": 1}), np.array([4.0, 6.0, np.nan]))
    assert found["local"].value == found["all"].value == 5
    assert np.isnan(found["text"].value) and np.isnan(found["mean"].value)
