import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from kontext.data.encoded.banks import BANK_ROWS, Bank, Entries, open_bank, write_bank
from kontext.errors import Stopped, WeightsError
from tests.data.folder_artifact import FolderArtifact

COUNT = 30
DRAW = torch.Generator().manual_seed(0)
VALUES = {
    "a": torch.randn(COUNT, 2, 3, generator=DRAW).half(),
    "b": torch.randn(COUNT, 5, generator=DRAW) > 0,
}


def entries(count: int, texts: bool = False) -> Entries:
    keys = [f"{row:064x}" for row in range(count)]
    return Entries(keys, "e" * 64, [f"text {row}" for row in range(count)] if texts else None)


def encode(rows: range) -> dict[str, Tensor]:
    return {key: value[rows.start : rows.stop] for key, value in VALUES.items()}


def test_images_of_several_sizes_are_stored_by_size_and_read_by_it(tmp_path: Path) -> None:
    """No shard mixes sizes, and the table records them."""
    sizes = [(32, 48)] * 5 + [(48, 32)] * 3
    rows = [torch.full((2, height // 8, width // 8), n) for n, (width, height) in enumerate(sizes)]
    told = Entries([f"{row}" for row in range(8)], "e" * 64, sizes=sizes)
    assert [list(part) for part in told.parts(2)] == [[0, 1], [2, 3], [4], [5, 6], [7]]
    artifact = FolderArtifact(tmp_path)

    def stacked(part: range) -> dict[str, Tensor]:
        return {"latents": torch.stack(rows[part.start : part.stop])}

    wrote = write_bank(artifact, artifact.scratch, "x", told, 2, stacked)  # type: ignore[arg-type]
    for bank in (wrote, open_bank(artifact, "x")):  # type: ignore[arg-type]
        found = bank.tensors["latents"]
        assert len(found) == 8 and found.shards == 5
        assert found.row_shapes == [row.shape for row in rows]
        assert torch.equal(found[torch.tensor([6, 5])], torch.stack([rows[6], rows[5]]))
        with pytest.raises(ValueError, match="2 shapes"):
            found[torch.tensor([4, 5])]
    table = artifact.table("x.parquet").to_pydict()
    assert list(zip(table["width"], table["height"], strict=True)) == sizes
    assert table["row"] == [0, 1, 0, 1, 0, 0, 1, 0]


def write(artifact: FolderArtifact, count: int, rows: int, texts: bool = False) -> Bank:
    return write_bank(artifact, artifact.scratch, "x", entries(count, texts), rows, encode)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), count=st.integers(1, COUNT), rows=st.integers(1, 31), texts=st.booleans())
def test_any_rows_of_a_bank_read_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    count: int,
    rows: int,
    texts: bool,
) -> None:
    artifact = FolderArtifact(tmp_path_factory.mktemp("bank"))
    wrote = write(artifact, count, rows, texts)
    assert len(artifact.names("x-")) == -(-count // rows)
    wanted = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), max_size=9))).long()
    told = entries(count, texts)
    for bank in (wrote, open_bank(artifact, "x")):
        assert (bank.keys, bank.encoder, bank.texts) == told[:3]
        assert set(bank.tensors) == set(VALUES)
        for key, value in VALUES.items():
            found = bank.tensors[key]
            assert len(found) == count and found.shape[1:] == value.shape[1:]
            assert found.dtype == value.dtype and torch.equal(found[wanted], value[wanted])


def test_rows_are_read_as_the_type_that_is_asked_for(tmp_path: Path) -> None:
    artifact = FolderArtifact(tmp_path)
    rows = write(artifact, 7, rows=4).tensors["a"].to(torch.device("cpu"), torch.float32)
    wanted = torch.tensor([6, 0, 3, 3])
    assert rows.dtype == torch.float32 and rows.device == torch.device("cpu")
    assert torch.equal(rows[wanted], VALUES["a"].float()[wanted])
    for missing in (7, -1):
        with pytest.raises(IndexError, match="outside of 0 to 6"):
            rows[torch.tensor([0, missing])]


def test_what_a_killed_run_finished_is_not_encoded_again(tmp_path: Path) -> None:
    artifact, seen = FolderArtifact(tmp_path), []

    def dies(rows: range) -> dict[str, Tensor]:
        seen.append(rows)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return encode(rows)

    def again() -> Bank:
        return write_bank(artifact, artifact.scratch, "x", entries(10), 4, dies)

    with pytest.raises(KeyboardInterrupt):
        again()
    again()
    assert seen == [range(4), range(4, 8), range(8, 10), range(8, 10)]
    assert torch.equal(open_bank(artifact, "x").tensors["a"][torch.arange(10)], VALUES["a"][:10])


_READER = """
import resource, sys, torch
from collections.abc import Callable
from pathlib import Path
from kontext.data.encoded.banks import open_bank
from tests.data.folder_artifact import FolderArtifact
artifact = FolderArtifact.__new__(FolderArtifact)
artifact.folder = Path(sys.argv[1])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch.zeros(1)[torch.tensor([0])]
before = peak()
rows = open_bank(artifact, "x").tensors["a"].to(torch.device("cpu"), torch.float32)
assert len(rows[torch.tensor([3, 200, 399])]) == 3
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_opening_a_bank_takes_no_memory_for_it(tmp_path: Path) -> None:
    artifact = FolderArtifact(tmp_path)
    big = {"a": torch.zeros(200, 16, 128, 128).half()}  # 105 MB a shard
    write_bank(artifact, artifact.scratch, "x", entries(400), 200, lambda _: big)
    command = [sys.executable, "-c", _READER, str(artifact.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40 * 1024, f"{int(done.stdout) / 1024:.0f} MB for 210 MB"


def test_a_shard_that_lost_rows_is_refused(tmp_path: Path) -> None:
    artifact = FolderArtifact(tmp_path)
    write(artifact, 7, rows=4)
    save_file({"a": torch.zeros(2, 2, 3)}, artifact.path("x-00001.safetensors"))
    with pytest.raises(WeightsError, match=r"x-00001.safetensors has 2 rows, its table 3"):
        open_bank(artifact, "x")


def test_rows_of_two_encoders_are_refused(tmp_path: Path) -> None:
    artifact = FolderArtifact(tmp_path)
    write(artifact, 4, rows=4)
    table = artifact.table("x.parquet").to_pylist()
    table[1]["encoder"] = "f" * 64
    artifact.add_table("x.parquet", BANK_ROWS.empty_table().from_pylist(table, BANK_ROWS))
    with pytest.raises(WeightsError, match="2 encoders"):
        open_bank(artifact, "x")


def test_a_bank_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing to encode for the bank 'x'"):
        write(FolderArtifact(tmp_path), 0, rows=4)


def test_a_bank_that_is_asked_to_end_goes_on_with_the_next_shard(tmp_path: Path) -> None:
    artifact, made, answers = FolderArtifact(tmp_path), list[range](), iter([False, True])

    def counted(rows: range) -> dict[str, Tensor]:
        made.append(rows)
        return encode(rows)

    def bank(stop: Callable[[], bool]) -> Bank:
        return write_bank(artifact, artifact.scratch, "x", entries(COUNT), 8, counted, stop)

    with pytest.raises(Stopped, match="ended after 2 shards of x"):
        bank(lambda: next(answers))
    assert made == [range(8), range(8, 16)]
    assert len(bank(lambda: False).keys) == COUNT
    assert made[2:] == [range(16, 24), range(24, 30)]
