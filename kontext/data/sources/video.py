"""Videos: a file, or a folder of them. Frames at a fixed gap; the miner `frames` pairs them.

A frame is named by its time: `walk.mp4@12.000`. All frames of a video are one group, held out
together. A video is planned by its length, and decoded once when it is ingested.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from kontext.data.layouts.base import shown, walk
from kontext.data.sources.base import Planned, Skipped, SourceItem
from kontext.data.video.part import VideoFrame, is_video
from kontext.errors import DecodeError, SourceError
from schemas.paths import expanded
from schemas.sections.sources import PathSource

ATTRIBUTION = ""  # the recipe names author and licence
BY_ENDS = True  # a file of gigabytes is told by its size and samples of its bytes


class VideoSource(PathSource):
    """Frames of a video file, or of all in a folder, at a fixed gap."""

    kind: Literal["video"] = "video"
    every: float = Field(1.0, title="Time between two frames, in seconds", ge=0.04, le=3600)
    max_frames: int = Field(600, title="Frames of one video, at most (spread over it)", ge=2)
    cut: float = Field(
        0.25, title="Difference of two histograms that begins a new shot (0 to 1)", gt=0, le=1
    )
    license_spdx: str = Field("LicenseRef-unknown", title="Licence (SPDX id)")
    author: str = Field("unknown", title="Author")


def plan(config: VideoSource) -> list[SourceItem]:
    """One item per frame. Raises SourceError as `read` does."""
    return read(config).items


def read(config: VideoSource) -> Planned:
    """Frames by the videos' lengths, and every other entry skipped with its reason.

    Raises:
        SourceError: nothing is there, no video can be opened, or PyAV is not installed.
    """
    from kontext.data.video.frames import check_installed

    check_installed()
    path = expanded(config.path)
    if not path.exists():
        raise SourceError(f"'{config.path}' does not exist")
    root = path if path.is_dir() else path.parent
    source, found = f"video:{path.resolve().name}", Planned()
    for one, reason in walk(path) if path.is_dir() else [(path, "")]:
        name = shown(one, root)
        if reason or not is_video(one):
            detail = "" if reason else "no video"
            found.skipped.append(Skipped(source, name, reason or "not_used", detail))
            continue
        try:
            found.items.extend(_frames(config, source, one, name))
        except DecodeError as error:
            found.skipped.append(Skipped(source, name, str(error.reason), str(error)))
    if not found.items:
        told = "; ".join(f"{one.ref}: {one.detail or one.reason}" for one in found.skipped[:3])
        raise SourceError(f"'{config.path}' holds no video that can be opened: {told}")
    return found


def _frames(config: VideoSource, source: str, path: Path, name: str) -> Iterator[SourceItem]:
    from kontext.data.video.frames import probe

    seconds = probe(path).seconds
    gap = max(config.every, seconds / config.max_frames)
    for number in range(min(config.max_frames, int(seconds / gap) + 1)):
        at = number * gap
        if number and at >= seconds:
            return
        yield SourceItem(
            source=source,
            ref=f"{name}@{at:.3f}",
            group_key=f"{source}:{name}",
            concept="",  # what is shown nobody has said
            license_spdx=config.license_spdx,
            author=config.author,
            part=VideoFrame(path.absolute(), at, config.cut, max(0, number - 1) * gap),
        )


def local_files(config: VideoSource) -> list[tuple[str, Path]]:
    """(name, path) of every file whose contents belong to the identity of what is ingested."""
    path = expanded(config.path)
    if path.is_file():
        return [(path.name, path)]
    files = (one for one, reason in walk(path) if not reason and is_video(one))
    return [(one.relative_to(path).as_posix(), one) for one in files]
