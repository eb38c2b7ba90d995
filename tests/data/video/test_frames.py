"""Frames of a video at given times: the right ones, in the right shots, and nothing else opened."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kontext.data.video.frames import FoundFrame, frames_at, probe
from kontext.data.video.part import UnreadFrameError, VideoFrame, is_video
from kontext.errors import DecodeError
from tests.data.videos import HEIGHT, RATE, WIDTH, frames, scene, write

pytest.importorskip("av")
CUT = 0.25


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("video") / "two shots.mp4", frames())


def rgb(found: FoundFrame | DecodeError) -> np.ndarray:
    assert isinstance(found, FoundFrame)
    return np.asarray(Image.open(io.BytesIO(found.ppm)))


def test_frames_are_those_of_their_times_in_the_shots_that_were_filmed(video: Path) -> None:
    facts = probe(video)
    assert (facts.width, facts.height, facts.seconds) == (WIDTH, HEIGHT, 8.0)
    times = [0.0, 1.0, 3.9, 4.0, 7.55]
    found = list(frames_at(video, times, CUT))
    for time, one in zip(times, found, strict=True):
        number = int(np.ceil(time * RATE))
        shot, step = divmod(number, 4 * RATE)
        difference = np.abs(rgb(one).astype(int) - scene(shot, 2 * step))
        assert difference.mean() < 12
    shown = [one for one in found if isinstance(one, FoundFrame)]
    assert [one.shot for one in shown] == [-1, -1, -1, 4000, 4000]
    assert [round(one.at, 3) for one in shown] == [0.0, 1.0, 3.9, 4.0, 7.6]


def test_a_run_may_begin_anywhere_and_gives_the_same_pixels(video: Path) -> None:
    (alone,) = frames_at(video, [5.0], CUT)
    *_, last = frames_at(video, [0.0, 5.0], CUT)
    assert (rgb(alone) == rgb(last)).all()
    assert VideoFrame(video, 5.0, CUT, 5.0).read(1 << 20) == last.ppm  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", ["avi", "webm"])
def test_other_containers(tmp_path: Path, suffix: str) -> None:
    codec = "vp9" if suffix == "webm" else "mpeg4"
    path = write(tmp_path / f"v.{suffix}", frames(1, 1), codec)
    assert is_video(path) and probe(path).seconds == pytest.approx(1.0, abs=0.1)
    found = list(frames_at(path, [0.0, 0.5], CUT))
    assert np.abs(rgb(found[1]).astype(int) - scene(0, 10)).mean() < 12


def test_a_turned_video_is_shown_upright(video: Path, tmp_path: Path) -> None:
    """Telephones write the picture as the sensor has it, and how it is to be turned."""
    data = video.read_bytes()
    one, zero, w = (1 << 16).to_bytes(4, "big"), bytes(4), (1 << 30).to_bytes(4, "big")
    upright = one + zero * 3 + one + zero * 3 + w
    at = data.index(upright, data.index(b"tkhd"))
    minus = ((1 << 32) - (1 << 16)).to_bytes(4, "big")
    turned = zero + one + zero + minus + zero * 4 + w  # a quarter to the right
    path = tmp_path / "turned.mp4"
    path.write_bytes(data[:at] + turned + data[at + len(upright) :])
    (found,) = frames_at(path, [0.0], CUT)
    assert np.abs(rgb(found).astype(int) - np.rot90(scene(0, 0), -1)).mean() < 12


def test_what_is_missing_is_said_for_every_time(video: Path, tmp_path: Path) -> None:
    found = list(frames_at(video, [7.0, 60.0, 61.0], CUT))
    assert isinstance(found[0], FoundFrame)
    assert [one.reason for one in found[1:] if isinstance(one, DecodeError)] == ["truncated"] * 2
    cut = tmp_path / "cut.avi"
    whole = write(tmp_path / "whole.avi", frames()).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    reasons = [isinstance(one, DecodeError) for one in frames_at(cut, [0.0, 1.0, 7.5], CUT)]
    assert reasons == [False, False, True]
    with pytest.raises(UnreadFrameError):
        VideoFrame(video, 99.0, CUT, 99.0).read(1 << 20)


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    "data",
    [b"", PLAYLIST, b"ffconcat version 1.0\nfile /etc/passwd\n", b"\x1aE\xdf\xa3" * 99],
)  # fmt: skip
def test_what_is_no_plain_video_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(data)
    with pytest.raises(DecodeError):
        probe(path)


def test_damage_is_a_reason_or_another_frame(video: Path, tmp_path: Path) -> None:
    data = bytearray(video.read_bytes())
    draw = np.random.default_rng(0)
    for turn in range(2):
        broken = data.copy()
        for at in draw.integers(0, len(data), 60):
            broken[at] = int(draw.integers(0, 256))
        path = tmp_path / f"{turn}.mp4"
        path.write_bytes(broken)
        assert len(list(frames_at(path, [0.0, 4.0, 7.5], CUT))) == 3


def test_without_the_library_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    code = (
        "import sys\nsys.modules['av'] = None\n"
        "from kontext.data.sources.video import VideoSource, read\n"
        f"read(VideoSource(path={str(tmp_path)!r}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'kontext[video]'" in ran.stderr
