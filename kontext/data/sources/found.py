"""Which source reads a path that somebody has, and what it will make of it.

Nothing of a picture is read: only names, tables and texts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kontext.data.layouts import drawings, layout_of
from kontext.data.layouts.base import is_image, walk
from kontext.data.layouts.web_picture import WebPicture
from kontext.data.sources import read
from kontext.data.sources.base import GivenPair, Planned
from kontext.data.sources.bucket import SCHEME, BucketSource
from kontext.data.sources.folder import FolderSource
from kontext.data.sources.pairs import PairsSource
from kontext.data.sources.video import VideoSource
from kontext.data.video.part import is_video
from kontext.errors import SourceError
from schemas.paths import expanded
from schemas.sections.sources import PathSource
from schemas.words import counted

CHANGES_RESULTS = False  # it chooses settings, which are in the recipe

_BEFORE = {  # why an instruction in a file's name was not taken
    "before_missing": "no picture of the same name without the instruction is beside it",
    "before_ambiguous": "more than one picture may be the one before",
    "instruction_ambiguous": "two labels of its name say what to do",
}
_FOLDERS = 3  # or kinds of files, that a warning names


def source_at(path: str) -> PathSource:
    """The source that reads what lies at `path`.

    Raises:
        SourceError: nothing is there, or nothing that we can read.
    """
    if path.startswith(SCHEME):
        return BucketSource(path=path)
    where = expanded(path)
    if not where.exists():
        raise SourceError(f"'{path}' does not exist")
    where = where.absolute()
    if layout := layout_of(where):
        return PairsSource(path=str(where), layout=layout)
    found = [where] if where.is_file() else [one for one, why in walk(where) if not why]
    if where.is_dir() and any(is_image(one) for one in found):
        return FolderSource(path=str(where))
    if any(is_video(one) for one in found):
        return VideoSource(path=str(where))
    raise SourceError(
        f"'{path}' has no layout that we know. We read folders of pictures, videos, and pairs that "
        f"lie like this:\n\n{drawings()}"
    )


@dataclass(frozen=True)
class Findings:
    """What a source holds, in numbers, with samples and with what a user should know."""

    source: PathSource
    layout: str
    pictures: int
    pairs: int  # edits with given instructions
    captions: int  # text-to-image pairs with given captions
    references: int  # edits with more than one context
    addresses: int = 0  # pictures that a run will fetch from the web
    hosts: int = 0  # that these are on
    licences: dict[str, int] = field(default_factory=dict)  # SPDX id -> pictures that have it
    labels: dict[str, int] = field(default_factory=dict)  # label -> pictures that have it
    skipped: dict[str, int] = field(default_factory=dict)  # reason -> entries
    samples: list[GivenPair] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def findings(source: PathSource, samples: int = 3) -> Findings:
    """Read the source's plan. Raises SourceError as `read` does."""
    planned = read(source)
    edits = [pair for pair in planned.pairs if pair.contexts]
    labels = Counter(name for item in planned.items for name in item.attributes)
    urls = [item.part.url for item in planned.items if isinstance(item.part, WebPicture)]
    step = max(1, len(planned.pairs) // max(1, samples))
    return Findings(
        source=source,
        layout=getattr(source, "layout", "") or source.kind,
        pictures=sum(item.path is None or is_image(item.path) for item in planned.items),
        pairs=len(edits),
        captions=len(planned.pairs) - len(edits),
        references=sum(len(pair.contexts) > 1 for pair in edits),
        addresses=len(urls),
        hosts=len({url.split("/")[2].lower() for url in urls}),
        licences=dict(sorted(Counter(item.license_spdx for item in planned.items).items())),
        labels=dict(sorted(labels.items())),
        skipped=dict(sorted(Counter(one.reason for one in planned.skipped).items())),
        samples=planned.pairs[::step][:samples],
        warnings=_warnings(planned, len(edits), video=isinstance(source, VideoSource)),
    )


def _warnings(planned: Planned, edits: int, *, video: bool) -> list[str]:
    found = []
    if not edits and not video and not _labelled_pairs(planned):
        found.append(
            "no edit can be made of this, unless some photographs were taken within seconds: no "
            "pair has an instruction, and no two pictures of a group differ in exactly one label; "
            "the run will end at stage mine unless it makes edits itself: "
            "--set ingest.edits.per_picture=4"
        )
    lost = [one.ref for one in planned.skipped if one.reason == "not_used"]
    if lost and not video:
        said = ("file belongs to no pair and is", "files belong to no pair and are")
        found.append(f"{counted(len(lost), *said)} not used, {_where(lost)}")
    kinds = Counter(
        Path(one.ref).suffix.lower() for one in planned.skipped if one.reason == "other_kind"
    )
    if kinds:
        said = ("file is no picture and no text", "files are no pictures and no texts")
        found.append(f"{counted(kinds.total(), *said)}, and not read: {_most(kinds)}")
    wordless = [one.ref for one in planned.skipped if one.reason == "instruction_missing"]
    if wordless:
        said = ("pair has no instruction and is", "pairs have no instruction and are")
        found.append(f"{counted(len(wordless), *said)} left out, {_where(wordless)}")
    for reason, why in _BEFORE.items():
        if refs := [one.ref for one in planned.skipped if one.reason == reason]:
            said = ("edited picture is", "edited pictures are")
            found.append(f"{counted(len(refs), *said)} left out, {_where(refs)}: {why}")
    others = sum(
        item.path is not None and not is_image(Path(item.path.name)) for item in planned.items
    )
    if others:
        said = ("file does not look like a picture; it", "files do not look like pictures; each")
        found.append(f"{counted(others, *said)} is rejected with a reason")
    return found


def _most(kinds: "Counter[str]") -> str:
    """The suffixes of most files, and how many others there are."""
    named = {kind: count for kind, count in kinds.most_common() if kind}
    shown = list(named.items())[:_FOLDERS]
    found = [f"{count:,} {kind}" for kind, count in shown]
    if others := kinds.total() - sum(count for _, count in shown):
        found.append(f"{others:,} other")
    return ", ".join(found)


def _where(refs: Sequence[str]) -> str:
    """Where they lie: the folders with most of them, or the first one's name."""
    folders = Counter(folder for ref in refs if (folder := ref.rpartition("/")[0]))
    if not folders:
        return f"such as {refs[0]}"
    named = [f"{count:,} in {name}/" for name, count in folders.most_common(_FOLDERS)]
    return ", ".join(named) + (" …" if len(folders) > _FOLDERS else "")


def _labelled_pairs(planned: Planned) -> bool:
    """Whether two pictures of a group differ in exactly one label."""
    seen: dict[tuple[str, str, frozenset[tuple[str, str]]], str] = {}
    for item in planned.items:
        for name, value in item.attributes.items():
            rest = frozenset(item.attributes.items()) - {(name, value)}
            key = (item.group_key, name, rest)
            if seen.setdefault(key, value) != value:
                return True
    return False
