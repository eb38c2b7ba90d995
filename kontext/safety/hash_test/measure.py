"""Measuring the hash gate: recall of each transform, and false matches among different pictures."""

import datetime as dt
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kontext.errors import SourceError
from kontext.safety.hash_test.same import same_picture
from kontext.safety.hash_test.transforms import REQUIRED, Transform, rgb_of, transforms
from kontext.safety.hashes import GateResult, HashGate, HashList
from kontext.safety.ids import Outcome, Reason
from kontext.safety.multi_index import Bytes
from kontext.safety.pdq import MAX_DISTANCE, MIN_QUALITY, distances, pdq_dihedral
from kontext.safety.rates import Rate, exact

CHANGES_RESULTS = False  # measures; a stage never asks it

RECALL, FEWEST = 0.99, 500
_WHOLE = 320  # pixels a side of what is transformed: a smaller one's own hash is off centre
_SMALLEST, _LARGEST = 128, 640  # pixels: of the shorter side; of the longer one, made smaller
_CUT_OUT = 0.1  # of the pixels: so many are see-through in a picture of one thing on nothing
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# where Debian's packages have photographs and paintings
PLACES = (
    "/usr/share/games/endless-sky/images",
    "/usr/share/tuxpaint/stamps",
    "/usr/share/wallpapers",
    "/usr/share/backgrounds",
    "/usr/share/doc/opencv-doc",
    "/usr/share/stellarium/nebulae",
)
PACKAGES = (
    "endless-sky-data tuxpaint-stamps-default plasma-workspace-wallpapers opencv-doc "
    "gnome-backgrounds mate-backgrounds stellarium-data"
)
NOT_MEASURED = (
    "recall on the pictures that the lists are about: none is at hand, and none will be",
    "MD5, SHA-1 and SHA-256: they match equal files and nothing else",
    "PhotoDNA, and lists of partners: no list is shipped",
    "listed pictures with a side below 320 pixels: where they were among the others, one resized "
    "copy in six was missed",
    "borders that are not plain: a gradient or a pattern around a picture hides it",
    "collages, a picture within a picture, drawings after a picture, and pictures made anew",
    "transforms together, but for two",
    "classifiers, text and pair rules: this test is of hashes alone",
)


@dataclass(frozen=True)
class Row:
    """What became of one transform."""

    family: str
    name: str
    strength: float
    required: bool
    gate: Rate  # stopped, of pictures with enough detail for PDQ
    plain: Rate  # stopped, of the others
    pdq: Rate  # as `gate`, but of the picture as it is: no look inside of borders
    distances: tuple[int, ...]  # bits to the original: smallest, median, 90 %, 99 %, largest


class _Hashed(NamedTuple):
    hashes: Bytes  # in 8 orientations
    quality: int
    side: int  # the shorter one, pixels
    cut_out: bool


@dataclass(frozen=True)
class FalseMatches:
    """Pairs of different files within the distance, in any orientation."""

    pictures: int
    pairs: int
    matches: int
    same: int  # of them, one picture in two files: `same_picture` says so
    rate: Rate  # of the others
    named: tuple[str, ...] = ()  # the others: "a.png, b.png: 30 bits"


@dataclass(frozen=True)
class Result:
    """All that was measured."""

    pictures: int
    plain: int  # of them, with too little detail for PDQ
    rows: list[Row]
    false: FalseMatches  # among pictures that fill their frame
    cut_outs: FalseMatches  # with a cut-out on either side: one thing on nothing, such as a sprite
    by_distance: dict[str, list[float]]  # family -> share within 0, 1, ... 63 bits, of PDQ alone
    not_measured: tuple[str, ...] = NOT_MEASURED

    @property
    def failed(self) -> list[str]:
        """What does not reach what is required."""
        rows = [f"{r.family} {r.name}" for r in self.rows if r.required and r.gate.value < RECALL]
        false = self.false.rate
        return rows + (["false matches"] if false.hits * 1_000_000 > max(false.of, 10**6) else [])

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "failed": self.failed, "recall_required": RECALL}


def pictures_in(folders: Sequence[Path]) -> list[Path]:
    """Pictures that are large enough, by name. Raises SourceError where there are too few."""
    files = [p for folder in folders for p in sorted(folder.rglob("*")) if _is_picture(p)]
    found = [path for path in files if _fits(path)]
    if len(found) < FEWEST:
        raise SourceError(
            f"{len(found)} pictures of {_SMALLEST} pixels a side or more are too few to say "
            f"anything: {FEWEST} are needed (name folders, or install {PACKAGES})"
        )
    return found


def measure(
    files: Sequence[Path],
    transformed: int,
    processes: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """Transform `transformed` of the pictures, spread evenly; look for false matches among all."""
    with _pool(processes) as pool:
        hashed = list(pool.map(_hashed, files, chunksize=16))
        false, cut_outs = (_false(files, hashed, pool, kind) for kind in (False, True))
    bank = np.stack([one.hashes[0] for one in hashed])
    quality = np.array([one.quality for one in hashed])
    large = [number for number, one in enumerate(hashed) if one.side >= _WHOLE]
    if len(large) < FEWEST:
        raise SourceError(f"{len(large)} pictures of {_WHOLE} pixels a side are too few: {FEWEST}")
    spread = np.linspace(0, len(large) - 1, min(transformed, len(large)))
    chosen = np.array(large)[np.unique(spread.astype(int))]
    chosen_list = chosen.tolist()
    with _pool(processes, bank[chosen]) as pool:
        work = pool.map(_tried, [files[n] for n in chosen_list], range(len(chosen_list)))
        tried = []
        for done, one in enumerate(work):
            tried.append(one)
            progress(done + 1, len(chosen_list))
    stopped, apart = (np.array([one[part] for one in tried]) for part in range(2))
    detailed = quality[chosen] >= MIN_QUALITY
    every = transforms()
    rows = [_row(t, stopped[:, n], apart[:, n], detailed) for n, t in enumerate(every)]
    curves = {
        family: _curve(apart[detailed][:, [n for n, t in enumerate(every) if t.family == family]])
        for family in dict.fromkeys(t.family for t in every)
    }
    plain = int((~detailed).sum())
    return Result(len(chosen_list), plain, rows, false, cut_outs, curves)


def _row(
    transform: Transform,
    stopped: NDArray[np.bool_],
    apart: NDArray[np.int64],
    detailed: NDArray[np.bool_],
) -> Row:
    own = apart[detailed]
    shares = np.quantile(own, (0, 0.5, 0.9, 0.99, 1)) if len(own) else np.zeros(5)
    return Row(
        transform.family,
        transform.name,
        transform.strength,
        transform.family in REQUIRED,
        exact(int(stopped[detailed].sum()), int(detailed.sum())),
        exact(int(stopped[~detailed].sum()), int((~detailed).sum())),
        exact(int((own <= MAX_DISTANCE).sum()), len(own)),
        tuple(round(float(share)) for share in shares),
    )


def _curve(apart: NDArray[np.int64]) -> list[float]:
    return [round(float((apart <= bits).mean()), 5) if apart.size else 0.0 for bits in range(64)]


def _false(
    files: Sequence[Path], hashed: Sequence[_Hashed], pool: ProcessPoolExecutor, cut_outs: bool
) -> FalseMatches:
    """Every picture that has enough detail against every other, in all orientations.

    `cut_outs`: the pairs with a cut-out on either side, else those without any.
    """
    detailed = [number for number, one in enumerate(hashed) if one.quality >= MIN_QUALITY]
    mine = [number for number in detailed if cut_outs or not hashed[number].cut_out]
    bank = (
        np.stack([hashed[number].hashes[0] for number in mine])
        if mine
        else np.empty((0, 32), np.uint8)
    )
    kinds = np.array([hashed[number].cut_out for number in mine], bool)
    matches: list[tuple[Path, Path, int]] = []
    pairs = 0
    for place, number in enumerate(mine):
        asked = kinds[:place] | kinds[place] if cut_outs else ~kinds[:place]
        apart = distances(hashed[number].hashes[:, None], bank[None, :place]).min(axis=0)
        pairs += int(asked.sum())
        matches += [
            (files[number], files[mine[other]], int(apart[other]))
            for other in np.flatnonzero((apart <= MAX_DISTANCE) & asked).tolist()
        ]
    same = list(pool.map(_same, matches, chunksize=8))
    false = [match for match, one in zip(matches, same, strict=True) if not one]
    return FalseMatches(
        len(mine), pairs, len(matches), sum(same), exact(len(false), pairs),
        tuple(f"{a.name}, {b.name}: {bits} bits" for a, b, bits in false),
    )  # fmt: skip


def _same(match: tuple[Path, Path, int]) -> bool:
    return same_picture(_opened(match[0]), _opened(match[1]))


def _hashed(path: Path) -> _Hashed:
    picture = _opened(path)
    hashes, quality = pdq_dihedral(rgb_of(picture))
    return _Hashed(hashes, quality, min(picture.size), _is_cut_out(path))


def _is_cut_out(path: Path) -> bool:
    with Image.open(path) as file:
        alpha = np.asarray(file.convert("RGBA").getchannel("A"))
    return float((alpha == 0).mean()) > _CUT_OUT


_BANK: dict[str, Any] = {}


def _start(bank: Bytes | None) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    if bank is not None:
        listed = HashList("test", "1", dt.date.max, pdq=bank)
        _BANK.update(gate=HashGate([listed]), bank=bank)


def _pool(processes: int, bank: Bytes | None = None) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes, get_context("spawn"), _start, (bank,))


def _tried(path: Path, number: int) -> tuple[list[bool], list[int]]:
    """Of each transform: whether the gate stops it, and bits to the original of PDQ alone."""
    picture, stopped, apart = _opened(path), [], []
    for transform in transforms():
        rgb = rgb_of(transform.apply(picture))
        hashes, _ = pdq_dihedral(rgb)
        apart.append(int(distances(hashes, _BANK["bank"][number]).min()))
        # what lies within the distance as it is, the gate finds at its first look
        stopped.append(apart[-1] <= MAX_DISTANCE or _stops(_BANK["gate"].check_pixels(rgb)))
    return stopped, apart


def _stops(result: GateResult) -> bool:
    return result.outcome is Outcome.DROP and result.reason is not Reason.CANARY


def _opened(path: Path) -> Image.Image:
    """RGB on white, at most 640 pixels a side."""
    with Image.open(path) as file:
        file.load()
        picture = file.convert("RGBA")
    paper = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    picture = Image.alpha_composite(paper, picture).convert("RGB")
    picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    return picture


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def _fits(path: Path) -> bool:
    try:
        with Image.open(path) as file:
            return min(file.size) >= _SMALLEST and min(_bounded(file.size)) >= _SMALLEST
    except OSError:
        return False


def _bounded(size: tuple[int, int]) -> Iterator[float]:
    factor = min(1.0, _LARGEST / max(size))
    yield from (side * factor for side in size)
