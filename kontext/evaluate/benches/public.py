"""Public benches: what a loader gives, and what is checked before anything is edited.

A loader is one file of this package with `BENCH`, what was published about the set, and
`load(folder)`, its items. No data comes with kontext: the user downloads a set into a folder, with
the command that `BENCH.get` says.

What is not as published ends the run before an edit is made: a wrong count would be compared with
figures of another set. With `partial` the same is written down instead, and said beside every
figure.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

from kontext.errors import BenchError
from kontext.evaluate.benches.files import PictureAt, sha256_of
from schemas.discovery import plugins
from schemas.words import unknown

CHANGES_RESULTS = False  # for users; no stage runs a public bench

Kind = Literal[
    "wrong_count",
    "missing_image",
    "duplicate_id",
    "no_instruction",
    "unknown_category",
    "checksum",
]
_SHOWN = 5  # problems that an error names
# Measures of an edit of which neither target nor mask nor captions are known
EDITS = (
    *("changed", "copied", "edit_area", "outside_est", "outside_est_psnr", "outside_est_ssim"),
    *("lpips_input", "clip_input", "dino_input", "aesthetic"),
)
TEXTS = ("text_exact", "text_ned", "text_cer")
FACES = ("identity", "faces_found")


@dataclass(frozen=True)
class BenchItem:
    """One edit that is asked for, or one picture from words where there is no `context`.

    base: what items have in common that are not independent, the base picture: they are resampled
        together. after: id of the item whose result is edited, of a session's later turns. mask:
        white, or else transparent, where the picture may change. rubric: the judge's text, where
        the set has its own. caption, context_caption: what result and input show; wanted, written:
        the text that the result has to have, and the one in its place in the input. Empty where
        the set does not say.
    """

    id: str
    category: str
    instruction: str
    base: str
    context: PictureAt | None = None
    target: PictureAt | None = None
    mask: PictureAt | None = None
    after: str = ""
    rubric: str = ""
    caption: str = ""
    context_caption: str = ""
    wanted: str = ""
    written: str = ""

    def pictures(self) -> list[PictureAt]:
        """All that the item needs."""
        return [one for one in (self.context, self.target, self.mask) if one is not None]


@dataclass(frozen=True)
class PublicBench:
    """What was published about a set.

    get: the one command that downloads it. counts: items per category, in the order of tables; 0
    where only the category is known; none where the names are taken as they come, and there are
    `categories` of them. pictures: distinct base pictures; 0 where nobody says.
    checksums: SHA-256 of files, by their names in the folder. judge: the rubric by which a model
    scores it; none where answers are exact. mean: what papers print for the whole set, the mean of
    the categories' means or that of all items. measures: see kontext.evaluate.measures; only: the
    categories that some of them are for. sets: see kontext.evaluate.measures.sets.
    """

    title: str
    licence: str
    get: str
    counts: Mapping[str, int]
    total: int
    categories: int = 0
    pictures: int = 0
    checksums: Mapping[str, str] = field(default_factory=dict)
    judge: str = "viescore"
    mean: Literal["categories", "items"] = "categories"
    measures: tuple[str, ...] = EDITS
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sets: tuple[str, ...] = ("kid", "fid")
    note: str = ""


@dataclass(frozen=True)
class Problem:
    """Something that is not as published. `item` is empty where it is about the whole set."""

    kind: Kind
    says: str
    item: str = ""


@dataclass(frozen=True)
class Loaded:
    """A set as it lies in a folder: items with different ids, in the set's order."""

    name: str
    bench: PublicBench
    folder: Path
    items: tuple[BenchItem, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def unusable(self) -> dict[str, Problem]:
        """Item id -> why it is not edited: its first problem."""
        found: dict[str, Problem] = {}
        for problem in self.problems:
            if problem.item:
                found.setdefault(problem.item, problem)
        return found

    @property
    def digest(self) -> str:
        """16 hex characters over what is asked for, item by item, and the pictures' names."""
        rows = [
            [
                i.id,
                i.category,
                i.instruction,
                i.after,
                *(p.within(self.folder) for p in i.pictures()),
            ]
            for i in self.items
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    def first(self, count: int) -> "Loaded":
        """The first `count` items of every category; their sessions are kept whole."""
        seen: Counter[str] = Counter()
        kept, ids = [], set[str]()
        for item in self.items:
            if item.after in ids or (not item.after and seen[item.category] < count):
                seen[item.category] += 1
                kept.append(item)
                ids.add(item.id)
        says = f"only {len(kept)} of {len(self.items)} items: the first {count} of each category"
        problems = [p for p in self.problems if p.item in ids or not p.item]
        return replace(self, items=tuple(kept), problems=(*problems, Problem("wrong_count", says)))


def known_benches() -> dict[str, ModuleType]:
    """Name -> module of every public bench, found by file."""
    return plugins("kontext.evaluate.benches", "BENCH")


def load_bench(name: str, folder: Path, partial: bool = False) -> Loaded:
    """Read a set and check that it is what was published.

    Args:
        partial: what is not as published is a problem of the result, not an error.

    Raises:
        BenchError: no such bench, nothing of it in the folder, a file that cannot be read, or
            (without `partial`) a set that is not as published.
    """
    known = known_benches()
    if name not in known:
        raise BenchError(unknown("bench", name, known))
    module = known[name]
    bench: PublicBench = module.BENCH
    if not folder.is_dir():
        raise BenchError(f"there is no folder {folder}; get the data with: {bench.get}")
    items: list[BenchItem] = module.load(folder)
    if not bench.counts:
        bench = replace(bench, counts=dict.fromkeys(sorted({i.category for i in items}), 0))
    problems = [*_of_items(bench, items), *_of_counts(bench, items), *_sums(bench, folder)]
    if problems and not partial:
        raise BenchError(_told(bench, folder, problems))
    unique = {item.id: item for item in reversed(items)}  # the first of equal ones
    order = dict.fromkeys(item.id for item in items)
    return Loaded(name, bench, folder, tuple(unique[i] for i in order), tuple(problems))


def _of_items(bench: PublicBench, items: Sequence[BenchItem]) -> Iterator[Problem]:
    times = Counter(item.id for item in items)
    for item_id, count in times.items():
        if count > 1:
            yield Problem("duplicate_id", f"{count} items have the id {item_id}", item_id)
    for item in items:
        if not item.instruction.strip():
            yield Problem("no_instruction", f"item {item.id} asks for nothing", item.id)
        if item.category not in bench.counts:
            said = unknown("category", item.category, bench.counts)
            yield Problem("unknown_category", f"item {item.id}: {said}", item.id)
        for picture in item.pictures():
            if not picture.exists():
                yield Problem("missing_image", f"item {item.id}: no picture {picture}", item.id)


def _of_counts(bench: PublicBench, items: Sequence[BenchItem]) -> Iterator[Problem]:
    found = Counter(item.category for item in items)
    for category, count in bench.counts.items():
        if count and found[category] != count:
            says = f"{category}: {found[category]} items where {count} were published"
            yield Problem("wrong_count", says)
    if bench.categories and len(bench.counts) != bench.categories:
        says = f"{len(bench.counts)} categories where {bench.categories} were published"
        yield Problem("wrong_count", says)
    if bench.total and len(items) != bench.total:
        yield Problem("wrong_count", f"{len(items)} items where {bench.total} were published")
    bases = len({item.base for item in items})
    if bench.pictures and bases != bench.pictures:
        yield Problem("wrong_count", f"{bases} base pictures where {bench.pictures} were published")


def _sums(bench: PublicBench, folder: Path) -> Iterator[Problem]:
    for name, wanted in bench.checksums.items():
        path = folder / name
        if path.is_file() and (found := sha256_of(path)) != wanted:
            says = f"{name} has the SHA-256 {found[:12]}… where {wanted[:12]}… was published"
            yield Problem("checksum", says)


def _told(bench: PublicBench, folder: Path, problems: Sequence[Problem]) -> str:
    shown = "; ".join(problem.says for problem in problems[:_SHOWN])
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return (
        f"{folder} is not {bench.title} as published: {shown}{more}. Get it again "
        f"({bench.get}), or run what is there with --partial: the table then says so"
    )
