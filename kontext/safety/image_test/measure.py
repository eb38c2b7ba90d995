"""Recall and false positives of a policy's classifiers, on sets that somebody who may has at hand.

No set of harmful pictures was or should be at hand here, so none of these figures can be shipped.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kontext.errors import SourceError
from kontext.safety.classifiers import load_classifier
from kontext.safety.classifiers.base import BATCH, Pixels, prove, score_images
from kontext.safety.policy import Policy
from kontext.safety.rates import Rate, exact
from schemas.risks import risks

CHANGES_RESULTS = False  # measures; a stage never asks it

SHARES = (0.001, 0.01)  # of harmless pictures that may be stopped
NOT_MEASURED = (
    "pictures unlike those of the two sets: figures are of these pictures alone",
    "what several classes together find in pairs, and the pair rule",
    "the stricter limits of pictures that the hash gate cannot match",
    "whether the labels are right: whose folder a picture lies in is believed",
)
_LOG = logging.getLogger("kontext.safety")


@dataclass(frozen=True)
class At:
    """A class where its limit stops so many of the harmless pictures."""

    share: float
    limit: float | None  # above which a picture is stopped; None: too few harmless ones to say
    recall: Rate | None  # of the harmful ones; None without any, or without a limit


@dataclass(frozen=True)
class Row:
    """A class of the policy, or all of it, at its own limit and at other ones."""

    name: str
    limit: float | None  # None: of the whole policy
    recall: Rate | None  # None without harmful pictures
    false: Rate
    at: tuple[At, ...] = ()


@dataclass(frozen=True)
class Result:
    """What was measured of a policy."""

    policy: str
    classifiers: dict[str, str]  # name -> version
    harmful: int
    harmless: int
    unreadable: int  # files of either set that are no pictures: in no figure
    unscored: int  # pictures that a classifier gave no score: they are stopped
    rows: tuple[Row, ...] = field(default=())
    not_measured: tuple[str, ...] = NOT_MEASURED

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(
    harmful: Sequence[Path],
    harmless: Sequence[Path],
    policy: Policy,
    threads: int = 1,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """Score every picture below the folders of each set, and compare.

    Raises:
        SourceError: a folder is none, or has no picture; or none is of harmless ones.
        GateError: a classifier is not installed, or does not work.
    """
    if not harmless:
        raise SourceError("name a folder of harmless pictures: else nobody knows how many are lost")
    names = [_files(folders) for folders in (harmful, harmless)]
    versions = {}
    for name in policy.classifiers:
        classifier = load_classifier(name, threads)
        prove(classifier)
        versions[name] = classifier.version
    done, total, found = 0, sum(map(len, names)), []
    for files in names:
        parts = []
        for start in range(0, len(files), BATCH):
            parts.append(_risks(files[start : start + BATCH], policy, threads))
            done += len(files[start : start + BATCH])
            on_step(done, total)
        found.append(_joined(parts, policy))
    for name, files, scores in zip(("harmful", "harmless"), names, found, strict=True):
        named = {"harmful": harmful, "harmless": harmless}[name]
        if named and not len(next(iter(scores.values()))):
            raise SourceError(f"none of the {len(files):,} {name} files is a picture")
    bad, good = (len(next(iter(scores.values()))) for scores in found)
    broken = sum(int(np.isnan(np.stack(list(s.values()))).any(0).sum()) for s in found)
    rows = tuple(_rows(policy, *found))
    return Result(policy.id, versions, bad, good, total - bad - good, broken, rows)


Scores = dict[str, NDArray[np.float32]]  # class -> [N], NaN where there is no score


def _files(folders: Sequence[Path]) -> list[Path]:
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise SourceError(f"{folder} is no folder")
        found += [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return found


def _risks(files: Sequence[Path], policy: Policy, threads: int) -> Scores:
    """The policy's classes of those files that are pictures."""
    pictures = list(_pictures(files))
    if not pictures:
        return {}
    scores: Scores = {}
    for name in policy.classifiers:
        scores |= score_images(load_classifier(name, threads), pictures)
    return dict(policy.risk(scores, policy.risks).scores)


def _joined(parts: Sequence[Scores], policy: Policy) -> Scores:
    none = np.zeros(0, np.float32)
    return {
        name: np.concatenate([none, *(part[name] for part in parts if part)])
        for name in policy.risks
    }


def _pictures(files: Sequence[Path]) -> Iterator[Pixels]:
    """RGB on white, as its file says it is turned; nothing of a file that is no picture."""
    for path in files:
        try:
            with Image.open(path) as file:
                picture = ImageOps.exif_transpose(file).convert("RGBA")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            _LOG.info("a file is no picture: %s", type(error).__name__)  # never its name
            continue
        paper = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        yield np.asarray(Image.alpha_composite(paper, picture).convert("RGB"))


def _rows(policy: Policy, harmful: Scores, harmless: Scores) -> Iterator[Row]:
    """The whole policy first, then each class."""
    stopped = [_stopped(policy, scores) for scores in (harmful, harmless)]
    yield Row("policy", None, _rate(stopped[0]), exact(int(stopped[1].sum()), len(stopped[1])))
    for name in policy.risks:
        limit = policy.limit(risks(policy.classifiers)[name].column, False)
        bad, good = harmful[name], harmless[name]
        at = tuple(_at(share, bad, good) for share in SHARES)
        false = ~(good <= limit)
        yield Row(name, limit, _rate(~(bad <= limit)), exact(int(false.sum()), len(false)), at)


def _stopped(policy: Policy, scores: Scores) -> NDArray[np.bool_]:
    """Which pictures [N] the policy stops by themselves."""
    known = risks(policy.classifiers)
    limits = {name: policy.limit(known[name].column, False) for name in policy.risks}
    found: NDArray[np.bool_] = np.logical_or.reduce(
        [~(scores[name] <= limit) for name, limit in limits.items()]  # NaN too
    )
    if policy.combinations and len(found):
        found |= np.array([one is not None for one in policy.combined(scores)])
    return found


def _at(share: float, bad: NDArray[np.float32], good: NDArray[np.float32]) -> At:
    """The lowest limit that stops at most that share of the harmless ones, and what it finds."""
    if len(good) * share < 1:
        return At(share, None, None)
    highest = np.sort(np.where(np.isnan(good), np.inf, good))[::-1]
    limit = float(highest[int(len(good) * share)])  # of those above it there are no more
    return At(share, limit, _rate(~(bad <= limit)))


def _rate(stopped: NDArray[np.bool_]) -> Rate | None:
    return exact(int(stopped.sum()), len(stopped)) if len(stopped) else None
