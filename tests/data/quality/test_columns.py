"""Scores over columns and in blocks are those of one pair after the other."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from kontext.data.quality import clip, known
from kontext.data.quality.known import Keyed, vectors
from kontext.data.quality.pairs import Edges
from schemas.tables import CAPTIONS, PAIRS, VECTORS
from tests.stages.stage_harness import rows_table

DRAW = np.random.default_rng(0)
IDS = [f"i{n}" for n in range(9)]


def pairs(count: int) -> pa.Table:
    """Pairs with none to three contexts."""
    rows = [
        {"pair_id": f"p{n}", "target_id": str(DRAW.choice(IDS)),
         "context_ids": DRAW.choice(IDS, DRAW.integers(0, 4)).tolist()}
        for n in range(count)
    ]  # fmt: skip
    return rows_table(PAIRS, rows)


def test_edges_are_the_contexts_in_their_order() -> None:
    table = pa.concat_tables([pairs(20), pairs(11)])  # of several chunks
    edges = Edges.of(table, IDS)
    found = [(pair, IDS[row]) for pair, row in zip(edges.pair, edges.context, strict=True)]
    rows = table.to_pylist()
    assert found == [(n, name) for n, row in enumerate(rows) for name in row["context_ids"]]
    assert [IDS[row] for row in edges.target] == [row["target_id"] for row in rows]
    with pytest.raises(KeyError, match="i3"):
        Edges.of(table.filter(pa.array([True] * 31)), [name for name in IDS if name != "i3"])
    nothing = Edges.of(PAIRS.empty_table(), IDS)
    assert len(nothing.target) == len(nothing.pair) == len(nothing.context) == 0


def test_scores_of_captions_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def unit(count: int) -> Any:
        found = DRAW.normal(size=(count, 16)).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    texts = ["", "one", "two", "three"]
    row_of = {text: row for row, text in enumerate(texts)}
    trained: Any = SimpleNamespace(images=unit(9), texts=unit(4), row_of=row_of)
    edges = Edges.of(pairs(50), IDS)
    said = [{name: str(DRAW.choice(texts)) for name in ("target_caption", "context_caption")}
            for _ in range(50)]  # fmt: skip
    words = rows_table(CAPTIONS, said)
    whole = clip.score_pairs(trained, edges, words)
    monkeypatch.setattr(clip, "_PAIRS", 7)
    for name, column in clip.score_pairs(trained, edges, words).items():
        assert np.array_equal(column, whole[name])
    for pair, row in enumerate(said):
        target, text = (
            trained.images[edges.target[pair]],
            trained.texts[row_of[row["target_caption"]]],
        )
        assert whole["clip_t"][pair] == pytest.approx(float(target @ text), abs=1e-6)
        own = trained.images[edges.context[edges.pair == pair]]
        nearest = (own @ target).max() if len(own) else 1.0
        assert whole["clip_i"][pair] == pytest.approx(float(nearest), abs=1e-6)


def test_vectors_are_taken_where_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_AT_A_TIME", 4)
    found = torch.randn(11, 5)
    keys, rows = [f"k{n}" for n in range(11)], np.array([9, 0, 3, 4, 5, 8])
    table = pa.concat_tables([VECTORS.empty_table(), *Keyed(keys, found, rows).tables()])
    assert table["key"].to_pylist() == [keys[row] for row in rows]
    asked: list[str] = []

    def make(missing: Any) -> torch.Tensor:
        asked.extend(missing)
        return found[[keys.index(key) for key in missing]]

    assert torch.equal(vectors(keys, table, make), found)
    assert asked == [key for row, key in enumerate(keys) if row not in rows]
    assert torch.equal(vectors(keys, VECTORS.empty_table(), make), found)
