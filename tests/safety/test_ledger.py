import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kontext.safety.ledger import GENESIS, Ledger
from kontext.store.objects import ObjectStore, open_store
from kontext.store.parquet import parquet_bytes, read_parquet
from schemas.tables import DECISIONS


def decisions(count: int, outcome: str = "pass") -> pa.Table:
    rows = [
        {
            "subject_kind": "image",
            "subject_hmac": f"{i:064x}",
            "check": "hash_gate",
            "provider": "bank/1",
            "score": i / 7,
            "threshold": 31.0,
            "outcome": outcome,
            "reason": "",
            "policy_version": "1",
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=DECISIONS)


def test_segments_chain_and_verify(objects: ObjectStore) -> None:
    ledger = Ledger(objects)
    one = ledger.append("ingest", "d1", decisions(3))
    two = ledger.append("screen", "d2", decisions(2, "drop"), run="flow-run")
    empty = ledger.append("screen", "d3", decisions(0))
    assert (one.seq, two.seq, empty.seq) == (0, 1, 2)
    assert one.first_prev_hash == GENESIS and two.first_prev_hash == one.last_hash
    report = ledger.verify()
    assert (report.segments, report.rows, report.problems) == (3, 5, ())
    table = ledger.table()
    assert table["artifact"].to_pylist() == ["ingest/d1"] * 3 + ["screen/d2"] * 2
    assert table["prev_hash"].to_pylist()[1:] == table["row_hash"].to_pylist()[:-1]
    assert ledger.table(["screen/d2"])["run"].to_pylist() == ["flow-run"] * 2
    assert ledger.table(["none"]).num_rows == 0


def test_an_artifact_is_appended_once(objects: ObjectStore) -> None:
    ledger = Ledger(objects)
    first = ledger.append("ingest", "d1", decisions(3))
    assert ledger.append("ingest", "d1", decisions(9)) == first
    assert Ledger(objects).verify().rows == 3


def test_concurrent_appends_all_get_in_once(objects: ObjectStore) -> None:
    jobs = [f"d{i % 4}" for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda d: Ledger(objects).append("screen", d, decisions(2)), jobs))
    report = Ledger(objects).verify()
    assert (report.segments, report.rows, report.problems) == (4, 8, ())
    assert len(objects.list("ledger/")) == 8  # losers leave nothing behind


def edit(table: pa.Table, kind: str) -> pa.Table:
    if kind == "change":
        rows = table.to_pylist()
        rows[1]["outcome"] = "drop"
        return pa.Table.from_pylist(rows, schema=table.schema)
    if kind == "remove":
        return pa.concat_tables([table[:1], table[2:]])
    return table.take([1, 0, 2])


@pytest.mark.parametrize(
    ("kind", "said"),
    [("change", "row 1 was changed"), ("remove", "2 rows instead"), ("swap", "does not follow")],
)
def test_tampering_is_found(objects: ObjectStore, kind: str, said: str) -> None:
    ledger = Ledger(objects)
    ledger.append("ingest", "d0", decisions(1))
    segment = ledger.append("ingest", "d1", decisions(3))
    ledger.append("ingest", "d2", decisions(1))
    objects.put(segment.key, parquet_bytes(edit(read_parquet(objects.get(segment.key)), kind)))
    (problem,) = ledger.verify().problems
    assert problem.startswith("segment 1:") and said in problem


def test_lost_and_forged_segments_are_found(objects: ObjectStore) -> None:
    ledger = Ledger(objects)
    first = ledger.append("ingest", "d0", decisions(2))
    second = ledger.append("ingest", "d1", decisions(2))
    ledger.append("ingest", "d2", decisions(2))
    objects.delete(second.key)
    assert "is missing" in ledger.verify().problems[0]
    objects.delete("ledger/seq/000000000001.json")
    problems = ledger.verify().problems
    assert problems[0] == "segment 1 is missing" and "does not follow" in problems[1]
    forged = json.loads(objects.get("ledger/seq/000000000000.json")) | {"first_prev_hash": "f" * 64}
    objects.put("ledger/seq/000000000000.json", json.dumps(forged).encode())
    assert "segment 0: does not follow" in ledger.verify().problems[0]
    objects.put(first.key, b"not parquet")
    assert any("unreadable" in problem for problem in ledger.verify().problems)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.text(max_size=8)), max_size=20))
def test_any_score_and_reason_survive_the_round_trip(
    tmp_path: Path, values: list[tuple[float, str]]
) -> None:
    table = decisions(len(values))
    scores = pa.array([score for score, _ in values], pa.float32())
    reasons = pa.array([reason for _, reason in values], pa.string())
    table = table.set_column(4, DECISIONS.field("score"), scores)
    table = table.set_column(7, DECISIONS.field("reason"), reasons)
    ledger = Ledger(open_store(str(tmp_path / uuid.uuid4().hex)))
    ledger.append("screen", "d", table)
    assert ledger.verify().problems == ()
    assert ledger.table()["reason"].to_pylist() == reasons.to_pylist()
