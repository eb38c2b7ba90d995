import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kontext.errors import LedgerError
from kontext.safety.keys import KEY_FILE, OTHER_KEYS, run_key
from kontext.safety.ledger import EDITS, GENESIS, HEADS_URL, Ledger, claim_key
from kontext.safety.witness import WRITTEN
from kontext.store.objects import ObjectStore, open_store
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


def test_segments_chain(objects: ObjectStore, tmp_path: Path) -> None:
    ledger = Ledger(objects, tmp_path)
    one = ledger.append("ingest", "d1", decisions(3))
    two = ledger.append("screen", "d2", decisions(2, "drop"), run="flow-run")
    empty = ledger.append("screen", "d3", decisions(0))
    assert (one.seq, two.seq, empty.seq) == (0, 1, 2)
    assert one.first_prev_hash == GENESIS and two.first_prev_hash == one.last_hash
    assert ledger.segments() == [one, two, empty]
    table = ledger.table()
    assert table["artifact"].to_pylist() == ["ingest/d1"] * 3 + ["screen/d2"] * 2
    assert table["prev_hash"].to_pylist()[1:] == table["row_hash"].to_pylist()[:-1]
    assert ledger.table(["screen/d2"])["run"].to_pylist() == ["flow-run"] * 2
    assert ledger.table(["none"]).num_rows == 0


def test_an_artifact_is_appended_once(objects: ObjectStore, tmp_path: Path) -> None:
    first = Ledger(objects, tmp_path).append("ingest", "d1", decisions(3))
    assert Ledger(objects, tmp_path).append("ingest", "d1", decisions(9)) == first
    assert Ledger(objects, tmp_path).table().num_rows == 3


def test_concurrent_appends_all_get_in_once(objects: ObjectStore, tmp_path: Path) -> None:
    jobs = [f"d{i % 4}" for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda d: Ledger(objects, tmp_path).append("screen", d, decisions(2)), jobs))
    ledger = Ledger(objects, tmp_path)
    assert len(ledger.segments()) == 4 and ledger.table().num_rows == 8
    assert len(objects.list("ledger/")) == 8  # losers leave nothing behind
    assert len(ledger.heads.list()) == 4


def test_homes_that_share_a_store_share_a_key(tmp_path: Path) -> None:
    """Another home's key is refused, unless it is given: then both read, each signs its own."""
    store = open_store(str(tmp_path / "store"))
    Ledger(store, tmp_path / "a").append("ingest", "d1", decisions(1))
    other = Ledger(store, tmp_path / "b")
    with pytest.raises(
        LedgerError, match=r"this home does not have: put it into HOME/safety\.keys"
    ):
        other.append("ingest", "d2", decisions(1))
    for name, giver in (("a", "b"), ("b", "a")):
        folder = tmp_path / giver / OTHER_KEYS
        folder.mkdir(parents=True)
        path = folder / f"{name}.key"
        path.write_text(run_key(tmp_path / name).hex())
        path.chmod(0o600)
    own = other.append("ingest", "d2", decisions(1))
    assert [s.key_id == own.key_id for s in Ledger(store, tmp_path / "a").segments()] == [
        False,
        True,
    ]


def test_nothing_is_appended_to_a_ledger_that_was_cut(objects: ObjectStore, tmp_path: Path) -> None:
    ledger = Ledger(objects, tmp_path)
    for name in ("d0", "d1"):
        ledger.append("ingest", name, decisions(1))
    last = ledger.segments()[-1]
    objects.delete(last.key)
    objects.delete("ledger/seq/000000000001.json")
    with pytest.raises(LedgerError, match="has lost segments: it has 1, and 2 were written"):
        ledger.append("ingest", "d2", decisions(1))


def test_a_claim_that_was_made_by_hand_stops_the_next_append(
    objects: ObjectStore, tmp_path: Path
) -> None:
    ledger = Ledger(objects, tmp_path)
    ledger.append("ingest", "d0", decisions(1))
    beforehand = ledger.segments()[0].claim().replace(b'"seq": 0', b'"seq": 1')
    objects.put("ledger/seq/000000000001.json", beforehand)
    with pytest.raises(LedgerError, match=r"000000000001\.json was changed"):
        ledger.append("ingest", "d1", decisions(1))


def test_heads_lie_where_the_environment_says(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HEADS_URL, f"file://{tmp_path}/elsewhere")
    ledger = Ledger(objects, tmp_path / "home")
    segment = ledger.append("ingest", "d0", decisions(1))
    (name,) = open_store(f"file://{tmp_path}/elsewhere").list()
    assert ledger.heads.get(name) == segment.claim()
    assert {path.name for path in (tmp_path / "home").iterdir()} == {KEY_FILE, WRITTEN}


def test_a_head_that_a_kill_left_out_is_made_up_for(objects: ObjectStore, tmp_path: Path) -> None:
    ledger = Ledger(objects, tmp_path)
    ledger.append("ingest", "d0", decisions(1))
    (name,) = ledger.heads.list()
    ledger.heads.delete(name)
    ledger.append("ingest", "d0", decisions(1))
    assert ledger.heads.list() == [name]


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
    ledger = Ledger(open_store(str(tmp_path / uuid.uuid4().hex)), tmp_path / "home")
    ledger.append("screen", "d", table)
    assert ledger.table()["reason"].to_pylist() == reasons.to_pylist()


def test_many_small_segments_are_added_by_reading_the_last_claim(
    objects: ObjectStore, tmp_path: Path
) -> None:
    chain = Ledger(objects, tmp_path, EDITS)
    assert chain.end() == (0, None)
    added = [chain.add("edit", decisions(1)) for _ in range(7)]
    assert [segment.seq for segment in added] == list(range(7))
    assert chain.segments() == added and Ledger(objects, tmp_path).segments() == []
    assert Ledger(objects, tmp_path, EDITS).end() == (7, added[-1])
    assert len({segment.artifact for segment in added}) == 7
    objects.delete(claim_key(6, EDITS))
    with pytest.raises(LedgerError, match="has 6, and 7 were written"):
        Ledger(objects, tmp_path, EDITS).add("edit", decisions(1))


def test_segments_that_are_added_at_once_all_get_in(objects: ObjectStore, tmp_path: Path) -> None:
    def add(number: int) -> None:
        Ledger(objects, tmp_path, EDITS).add("edit", decisions(1))
        Ledger(objects, tmp_path).append("screen", f"d{number}", decisions(1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(12)))
    assert Ledger(objects, tmp_path, EDITS).table().num_rows == 12
    assert Ledger(objects, tmp_path).table().num_rows == 12
