"""Frames of one video at given times, and the shots that they are in. Runs in the video process.

A video file is a program for a decoder, and some are lists of other files. Only plain containers
are opened, by their format, and nothing that a file points at.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kontext.data.decode.result import Reason, check_size
from kontext.errors import DecodeError

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,ogg,flv,asf,m4v,h264,hevc,ivf"
)
_SMALL = (64, 36)  # width and height at which frames are compared
_PARTS, _BINS = 4, 8  # parts of a side that have their own histogram, and its bins
_DAMAGED = 200  # packets in a row that cannot be decoded
_EARLY = 1e-3  # seconds by which a frame's time may be rounded down
_HDR = (16, 18)  # PQ and HLG: nothing says which number is white on a screen
_BT709, _BT601 = 1, 5  # FFmpeg's numbers of matrices
_BT709_FROM = 720  # lines; where a file says nothing, players go by this


@dataclass(frozen=True)
class Facts:
    """What a video says of itself."""

    seconds: float
    width: int
    height: int
    codec: str


@dataclass(frozen=True)
class Frame:
    """A decoded frame. `shot` is when its shot began, in milliseconds; -1: that was not seen."""

    asked: float  # seconds; the frame is the first that is not before
    at: float
    shot: int
    rgb: NDArray[np.uint8]  # [H, W, 3]


def probe(path: Path) -> Facts:
    """A video's facts. Raises DecodeError."""
    with _opened(path) as (container, stream):
        found = stream.duration and float(stream.duration * stream.time_base)
        seconds = found or (container.duration or 0) / 1e6 or _counted(container, stream)
        context = stream.codec_context
        return Facts(seconds, context.width, context.height, context.name)


def frames(path: Path, times: Sequence[float], cut: float, since: float) -> Iterator[Frame]:
    """The frames at `times` (seconds, rising) until the video ends.

    Args:
        cut: difference of two frames' histograms (0 to 1) that begins a new shot.
        since: seconds from where on shots are looked for, at most the first time.

    Raises:
        DecodeError: the video cannot be read, or not further.
    """
    with _opened(path) as (container, stream):
        start = float((stream.start_time or 0) * stream.time_base)
        base = float(stream.time_base)
        if since > 0:
            container.seek(int((since + start) / base), stream=stream, backward=True)
        waiting = list(times)
        shot, before = -1, None
        for frame in _decoded(container, stream):
            at = float(frame.pts) * base - start
            if at < since - _EARLY:
                continue
            look = _histogram(frame)
            if before is not None and _difference(before, look) > cut:
                shot = round(1000 * at)
            before = look
            while waiting and at >= waiting[0] - _EARLY:
                yield Frame(waiting.pop(0), at, shot, _rgb(frame, stream))
            if not waiting:
                return


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream. Raises DecodeError."""
    import av

    options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
    try:
        with path.open("rb") as file, av.open(file, options=options, io_open=_refuse) as container:
            if not container.streams.video:
                raise DecodeError(Reason.UNSUPPORTED_FORMAT, "no pictures in it")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise DecodeError(Reason.UNSUPPORTED_FORMAT, "a codec that is not known")
            stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
            check_size(stream.codec_context.width, stream.codec_context.height)
            yield container, stream
    except av.FFmpegError as error:
        raise DecodeError(Reason.CORRUPT, f"video: {_line(error)}") from error
    except (ValueError, OSError, OverflowError) as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(Reason.CORRUPT, f"video: {_line(error)}") from error


def _refuse(url: str, flags: int, options: Any) -> Any:
    """A container that wants another file does not get it."""
    raise PermissionError("a video may not open other files")


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """All frames that have a time, in order; single packets may be damaged."""
    import av

    damaged = 0
    for packet in container.demux(stream):
        try:
            found = packet.decode()
        except av.FFmpegError as error:
            damaged += 1
            if damaged >= _DAMAGED:
                raise DecodeError(Reason.CORRUPT, f"video: {_line(error)}") from error
            continue
        for frame in found:
            damaged = 0
            if frame.pts is not None and not frame.is_corrupt:
                check_size(frame.width, frame.height)
                yield frame


def _counted(container: Any, stream: Any) -> float:
    """Length of a video that does not say it, by its packets. Nothing is decoded."""
    last = max((int(p.pts) for p in container.demux(stream) if p.pts is not None), default=0)
    return float((last - (stream.start_time or 0)) * stream.time_base)


def _histogram(frame: Any) -> NDArray[np.float64]:
    """Shares of pixels in bins of red, green and blue for every part of a small copy.

    Two shots may have the same colours, but not in the same places. Float [parts, 3 * bins], rows
    sum to 3.
    """
    small = frame.reformat(*_SMALL, format="rgb24", interpolation="AREA").to_ndarray()
    wide, high = _SMALL[0] // _PARTS, _SMALL[1] // _PARTS
    parts = small.reshape(_PARTS, high, _PARTS, wide, 3).transpose(0, 2, 4, 1, 3)
    bins = parts.reshape(_PARTS * _PARTS, 3, high * wide) // (256 // _BINS)
    counts = (bins[..., None] == np.arange(_BINS, dtype=np.uint8)).sum(axis=2)
    return np.asarray(counts.reshape(_PARTS * _PARTS, -1) / (high * wide))


def _difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """0 for equal histograms, 1 for such that share nothing anywhere."""
    return float(np.abs(one - other).sum() / (6 * len(one)))


def _rgb(frame: Any, stream: Any) -> NDArray[np.uint8]:
    """A frame as it is shown: colours by its matrix, square pixels, turned. uint8 [H, W, 3]."""
    if int(frame.color_trc or 0) in _HDR:
        raise DecodeError(Reason.RANGE, "video with a high dynamic range (PQ or HLG)")
    matrix = int(frame.colorspace or 2)
    if matrix == 2:
        matrix = _BT709 if frame.height >= _BT709_FROM else _BT601
    ratio = float(stream.sample_aspect_ratio or 1)
    width = round(frame.width * ratio) if 0.1 < ratio < 10 else frame.width
    check_size(width, frame.height)
    shown = frame.reformat(
        width,
        frame.height,
        format="rgb24",
        src_colorspace=matrix if "rgb" not in frame.format.name else None,
        interpolation="BICUBIC",
    ).to_ndarray()
    turned = np.rot90(shown, round(frame.rotation / 90) % 4)
    return np.ascontiguousarray(turned)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
