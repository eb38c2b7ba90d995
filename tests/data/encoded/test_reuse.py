"""Rows of earlier banks are taken as they are, and only the others are made."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kontext.data.encoded.banks import Bank, Entries, write_bank
from kontext.data.encoded.reuse import Reused
from tests.data.folder_artifact import FolderArtifact


def value(key: str) -> list[float]:
    return [float(ord(letter)) for letter in key]


def bank(folder: Path, keys: Sequence[str], encoder: str = "e", off: float = 0.0) -> Bank:
    def encode(rows: range) -> dict[str, Tensor]:
        return {"x": torch.tensor([value(keys[row]) for row in rows]) + off}

    folder.mkdir()
    return write_bank(FolderArtifact(folder), folder, "x", Entries(keys, encoder), 2, encode)


def test_known_rows_are_taken_and_the_others_made(tmp_path: Path) -> None:
    older = bank(tmp_path / "a", ["ab", "cd", "ef"])
    newer = bank(tmp_path / "b", ["ef", "gh"])
    strange = bank(tmp_path / "c", ["ij"], encoder="other", off=100.0)
    wanted = ["ab", "bb", "ef", "gh", "ij", "kl"]
    asked: list[str] = []

    def encode(places: Sequence[int]) -> dict[str, Tensor]:
        asked.extend(wanted[place] for place in places)
        return {"x": torch.tensor([value(wanted[place]) for place in places])}

    reused = Reused(Entries(wanted, "e"), [strange, newer, older], encode)
    assert reused.missing() == 3
    found = torch.cat([reused(range(0, 4))["x"], reused(range(4, 6))["x"]])
    assert torch.equal(found, torch.tensor([value(key) for key in wanted]))
    assert asked == ["bb", "ij", "kl"]


def test_all_may_be_known_and_none(tmp_path: Path) -> None:
    made = bank(tmp_path / "a", ["ab", "cd"])

    def never(places: Sequence[int]) -> dict[str, Tensor]:
        raise AssertionError(f"encoded {places}")

    every = Reused(Entries(["cd", "ab"], "e"), [made], never)(range(2))["x"]
    assert torch.equal(every, torch.tensor([value("cd"), value("ab")]))
    one = {"x": torch.ones(1, 2)}
    assert Reused(Entries(["zz"], "e"), [], lambda _: one)(range(1)) is one
