from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from kontext.data.banks import BANK_ROWS, Bank, read_bank, write_bank
from kontext.errors import WeightsError
from tests.data.folder_artifact import FolderArtifact


def bank(count: int, texts: bool = False) -> Bank:
    draw = torch.Generator().manual_seed(count)
    tensors = {
        "a": torch.randn(count, 2, 3, generator=draw).half(),
        "b": torch.randn(count, 5, generator=draw) > 0,
    }
    keys = [f"{row:064x}" for row in range(count)]
    return Bank(keys, "e" * 64, tensors, [f"text {row}" for row in range(count)] if texts else None)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 30), rows=st.integers(1, 31), texts=st.booleans())
def test_a_bank_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, count: int, rows: int, texts: bool
) -> None:
    artifact = FolderArtifact(tmp_path_factory.mktemp("bank"))
    wrote = bank(count, texts)
    shards = write_bank(artifact, artifact.scratch, "x", wrote, rows)
    assert shards == -(-count // rows) == len(artifact.names("x-"))
    found = read_bank(artifact, "x")
    assert (found.keys, found.encoder, found.texts) == (wrote.keys, wrote.encoder, wrote.texts)
    assert all(torch.equal(found.tensors[key], wrote.tensors[key]) for key in wrote.tensors)


def test_a_shard_that_lost_rows_is_refused(tmp_path: Path) -> None:
    artifact = FolderArtifact(tmp_path)
    write_bank(artifact, artifact.scratch, "x", bank(7), rows=4)
    save_file({"a": torch.zeros(2, 2, 3)}, artifact.path("x-00001.safetensors"))
    with pytest.raises(WeightsError, match=r"x-00001.safetensors has 2 rows, its table 3"):
        read_bank(artifact, "x")


def test_rows_of_two_encoders_are_refused(tmp_path: Path) -> None:
    artifact = FolderArtifact(tmp_path)
    write_bank(artifact, artifact.scratch, "x", bank(4), rows=4)
    table = artifact.table("x.parquet").to_pylist()
    table[1]["encoder"] = "f" * 64
    artifact.add_table("x.parquet", BANK_ROWS.empty_table().from_pylist(table, BANK_ROWS))
    with pytest.raises(WeightsError, match="2 encoders"):
        read_bank(artifact, "x")
