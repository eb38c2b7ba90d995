"""A frame of a video, as a plan has it."""

from dataclasses import dataclass
from pathlib import Path

from kontext.errors import SourceError

_SUFFIXES = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .mts .m2ts .ogv .wmv .flv .3gp"
SUFFIXES = frozenset(_SUFFIXES.split())


def is_video(path: Path) -> bool:
    """Whether a file's name says that it is a video."""
    return path.suffix.lower() in SUFFIXES


class UnreadFrameError(SourceError):
    """A frame could not be read; `reason` is the reject reason that is recorded."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class VideoFrame:
    """The first frame that is not before `at` seconds. `cut` as `reader.frames` has it.

    `since` is when the frame before it in the plan is: a shot that begins between them is seen
    whichever frames are read together.
    """

    path: Path
    at: float
    cut: float
    since: float

    def read(self, limit: int) -> bytes:
        """The frame as an uncompressed picture file. Raises SourceError."""
        from kontext.data.video.frames import FoundFrame, frames_at

        (found,) = frames_at(self.path, [self.at], self.cut)
        if not isinstance(found, FoundFrame):
            raise UnreadFrameError(found.reason, str(found))
        return found.ppm
