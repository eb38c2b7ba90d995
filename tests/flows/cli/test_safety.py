"""`kontext safety verify`: one line for a whole chain, exit 1 for a broken one."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import cli
from kontext.errors import StoreError
from kontext.safety.ledger import Ledger
from kontext.store.objects import open_store
from kontext.store.parquet import parquet_bytes, read_parquet
from tests.safety.test_ledger import decisions


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = f"file://{tmp_path}/store"
    ledger = Ledger(open_store(found))
    for number in range(3):
        ledger.append("screen", f"d{number}", decisions(4))
    return found


def verify(url: str, *words: str) -> Any:
    return CliRunner().invoke(cli.app, ["safety", "verify", "--store", url, *words])


def test_a_whole_chain(url: str) -> None:
    found = verify(url)
    assert found.exit_code == 0
    assert found.output == "3 segments, 12 decisions\nthe chain is whole\n"
    report = json.loads(verify(url, "--json").output)
    assert report == {"segments": 3, "rows": 12, "problems": []}


def test_a_changed_decision_and_a_missing_segment_are_named(url: str) -> None:
    objects = open_store(url)
    changed, gone = (s.key for s in Ledger(objects).segments()[:2])
    table = read_parquet(objects.get(changed))
    column = table.column_names.index("outcome")
    objects.put(changed, parquet_bytes(table.set_column(column, "outcome", [["keep"] * 4])))
    objects.delete(gone)
    found = verify(url)
    assert isinstance(found.exception, StoreError)
    assert str(found.exception) == "the ledger's chain is broken in 2 places"
    assert "segment 0: row 0 was changed" in found.output
    assert f"segment 1: {gone} is missing" in found.output
