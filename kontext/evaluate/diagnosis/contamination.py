"""What of the test is in training: near-duplicates of its pictures and words, and copies among the
results.

A picture is a near-duplicate of a training picture where PDQ says so and, since flat drawings
collide in PDQ, their pixels are near too (as `kontext.data.split`, which keeps such pictures in one
split, has it). A result is a copy where it is nearer to a training target than to its own, and as
near as the autoencoder is to what it encodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kontext.data.pixels import pixel_id
from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.diagnosis.finding import ALL, UNKNOWN, Finding, gaps
from kontext.evaluate.false_editors import TrainingEdits, thumbs
from kontext.evaluate.pixels import Images, Values
from kontext.evaluate.statistics import Interval, cluster_rate
from kontext.evaluate.wordings import plain
from kontext.safety.pdq import MAX_DISTANCE, MIN_QUALITY, distances

if TYPE_CHECKING:
    import pyarrow as pa

    from kontext.data.shards.read import PairSet

NEAR_WORDS = 0.75  # share of two instructions' words that both have
NEAR_PIXELS = 0.1  # mean difference of pixels, 0 to 1
COPY = 1.5  # times the codec's error
_CANDIDATES = 8
SCANS = {
    "context": "items whose context is nearly a picture of training",
    "target": "items whose target is nearly a target of training",
    "pair": "items whose context and target are nearly those of one training pair",
    "words": "items whose instruction stands in training word by word",
    "near words": "items with an instruction of training that has three of four of its words",
    "pair and words": "items whose picture pair and instruction are both in training",
}


@dataclass(frozen=True)
class Hashed:
    """PDQ of pictures by their pixel ids, where they have a hash that says something."""

    row: dict[str, int]
    hashes: NDArray[np.uint8]  # [N, 32]

    @classmethod
    def of(cls, images: pa.Table) -> Hashed:
        """Of ingest's table of images: columns pixel_id, pdq, pdq_quality."""
        names = ("pixel_id", "pdq", "pdq_quality")
        columns = [images[name].to_pylist() for name in names]
        usable = [
            (image, pdq)
            for image, pdq, quality in zip(*columns, strict=True)
            if pdq and (quality or 0) >= MIN_QUALITY
        ]
        hashes = np.frombuffer(b"".join(pdq for _, pdq in usable), np.uint8).reshape(-1, 32)
        return cls({image: i for i, (image, _) in enumerate(usable)}, hashes)


@dataclass(frozen=True)
class Scan:
    """`rates` by scan and category; `unhashed` items have no picture that PDQ can match."""

    rates: list[Finding]
    trained: int  # pairs of training that were looked at
    unhashed: int
    named: dict[str, list[str]]  # by scan the first items that it found

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        own = {"trained": self.trained, "unhashed": self.unhashed, "named": self.named}
        return {**own, "rates": [each.as_dict() for each in self.rates]}


def scan(bench: Bench, train: PairSet, hashed: Hashed) -> Scan:
    """Look for every item's pictures and words among the training pairs."""
    pairs = [row for row in train.rows if row.contexts]
    images = [train.pixel_ids[i] for i in {j for row in pairs for j in (*row.contexts, row.target)}]
    near = _Near(train, hashed, sorted(images))
    words = {plain(row.instruction) for row in pairs}
    bags = _Bags(words)
    by_target: dict[int, list[int]] = {}
    for number, row in enumerate(pairs):
        by_target.setdefault(row.target, []).append(number)
    flags = {name: np.zeros(len(bench)) for name in SCANS}
    unhashed = 0
    for i, item in enumerate(bench.items):
        contexts = near.rows(bench.context[i])
        targets = {row for row in near.rows(bench.target[i]) if row in by_target}
        unhashed += not near.known(bench.context[i]) and not near.known(bench.target[i])
        both = [
            pairs[number]
            for row in targets
            for number in by_target[row]
            if contexts & set(pairs[number].contexts)
        ]
        said = plain(item.instruction)
        flags["context"][i], flags["target"][i] = bool(contexts), bool(targets)
        flags["pair"][i] = bool(both)
        flags["words"][i] = said in words
        flags["near words"][i] = said in words or bags.near(said)
        flags["pair and words"][i] = any(plain(row.instruction) == said for row in both)
    named = {n: [bench.items[i].pair_id for i in np.flatnonzero(f)[:20]] for n, f in flags.items()}
    found = [one for name, values in flags.items() for one in rates(bench, name, values)]
    return Scan(found, len(pairs), unhashed, named)


def rates(bench: Bench, check: str, values: Values) -> list[Finding]:
    """The share of flagged items [N], of all and of each category."""
    found = []
    for name in (ALL, *bench.categories):
        rows = [i for i, item in enumerate(bench.items) if name in (ALL, item.category)]
        rate = cluster_rate(values[rows], [bench.items[i].cluster for i in rows])
        found.append(Finding(check, name, rate, "found" if rate.value else "none"))
    return found


class _Bags:
    """The words of texts, by word: whose sets are alike share one of a text's rarer words."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._bags = [frozenset(text.split()) for text in sorted(texts)]
        self._having: dict[str, list[int]] = {}
        for number, bag in enumerate(self._bags):
            for word in bag:
                self._having.setdefault(word, []).append(number)

    def near(self, said: str) -> bool:
        """Whether a text has three of four of its words, and of the other's, in common."""
        own = frozenset(said.split())
        rare = sorted(own, key=lambda word: (len(self._having.get(word, ())), word))
        some = rare[: len(own) - math.ceil(NEAR_WORDS * len(own)) + 1]
        numbers = {number for word in some for number in self._having.get(word, ())}
        found = (self._bags[number] for number in numbers)
        return any(len(own & bag) >= NEAR_WORDS * len(own | bag) for bag in found)


class _Near:
    """Finds training images that are nearly a picture."""

    def __init__(self, train: PairSet, hashed: Hashed, images: Sequence[str]) -> None:
        self._train, self._hashed = train, hashed
        self._ids = [name for name in images if name in hashed.row]
        self._rows = {name: row for row, name in enumerate(train.pixel_ids)}
        self._hashes = hashed.hashes[[hashed.row[name] for name in self._ids]]

    def known(self, picture: NDArray[np.uint8]) -> bool:
        """Whether the picture has a hash that says something."""
        return pixel_id(picture) in self._hashed.row

    def rows(self, picture: NDArray[np.uint8]) -> set[int]:
        """Rows of the training images that are near."""
        own = pixel_id(picture)
        found = {self._rows[own]} if own in self._rows else set[int]()
        if own not in self._hashed.row or not self._ids:
            return found
        far = distances(self._hashes, self._hashed.hashes[self._hashed.row[own]])
        nearest = np.argsort(far, kind="stable")[:_CANDIDATES]
        rows = [self._rows[self._ids[i]] for i in nearest if far[i] <= MAX_DISTANCE]
        for row, other in zip(rows, self._train.pictures(rows), strict=True):
            if other.shape != picture.shape or gaps([other], [picture])[0] <= NEAR_PIXELS:
                found.add(row)
        return found


@dataclass(frozen=True)
class Copies:
    """The share of results that are copies of a training target, and of the right results."""

    made: list[Finding]
    right: Interval  # what the targets themselves, through the autoencoder, would count as
    every: Interval  # what results would count as that are all copies
    among: int  # training targets

    @property
    def verdict(self) -> str:
        """memorises, where more of its results are copies than of the right ones; else no sign.

        Nothing can be told where so many of the right results are copies that results which all
        are would not stand out.
        """
        if not self.among:
            return UNKNOWN
        if self.every.low <= self.right.high:
            return f"cannot be told, {self.right.value:.0%} of the right results are copies too"
        return "memorises" if self.made[0].measured.low > self.right.high else "no sign of it"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rates = {"right": self.right.as_dict(), "every": self.every.as_dict()}
        own = {"verdict": self.verdict, "among": self.among, **rates}
        return {**own, "made": [each.as_dict() for each in self.made]}


def copies(bench: Bench, made: Images, codec_target: Images, training: TrainingEdits) -> Copies:
    """Look for results among the targets of training edits that ask for the same things."""
    flags = {"made": np.zeros(len(bench)), "right": np.zeros(len(bench))}
    among = 0
    for rows, part in bench.parts:
        known = training.at(part.sizes[0]).target
        among = max(among, len(known))
        if not len(known):
            continue
        small = thumbs(known).reshape(len(known), -1)
        lengths = np.square(small).sum(axis=1)
        for name, pictures in (("made", made), ("right", codec_target)):
            for i, row in enumerate(rows):
                own = gaps([codec_target[row]], [part.target[i]])[0]
                thumb = thumbs(pictures[row][None]).reshape(-1)
                far = lengths - 2 * (small @ thumb)  # but for the thumb's own length
                near = known[np.argsort(far, kind="stable")[:_CANDIDATES]]
                flags[name][row] = _copied(pictures[row], part.target[i], own, near)
    clusters = [item.cluster for item in bench.items]
    right, every = (cluster_rate(one, clusters) for one in (flags["right"], np.ones(len(bench))))
    return Copies(rates(bench, "copies", flags["made"]), right, every, among)


def _copied(
    picture: NDArray[np.uint8], target: NDArray[np.uint8], codec: float, near: Images
) -> bool:
    nearest = gaps(near, [picture] * len(near)).min()
    return bool(nearest < gaps([picture], [target])[0] and nearest <= COPY * codec + 1 / 255)
