import os
import signal

import pytest

from kontext.data.decode import Reason
from kontext.data.decode.process import DecoderProcess
from kontext.errors import DecodeError
from tests.data.decode.hostile_parts import lossless, pixels

OPTIONS = {"resolution": None, "background": "#ffffff", "svg": True}
# minutes of work in a few bytes
SLOW = b"""<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 7000 7000'><filter id='f'>
<feTurbulence baseFrequency='0.9' numOctaves='99'/></filter>
<rect width='7000' height='7000' filter='url(#f)'/></svg>"""
LAUGHS = b"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 64 64'>%s</svg>"


def test_a_picture_that_costs_too_much_time_is_stopped_and_the_next_one_read() -> None:
    process = DecoderProcess(cpu_seconds=0)  # the system's limit then is the next second
    try:
        with pytest.raises(DecodeError) as caught:
            process.decode(SLOW, OPTIONS)
        assert caught.value.reason == Reason.TIMEOUT
        assert (process.decode(lossless(5, "png"), OPTIONS).rgb == pixels(5)).all()
    finally:
        process.close()


def test_a_decoder_that_waits_for_ever_is_stopped() -> None:
    process = DecoderProcess(wall_seconds=60)
    try:
        process.decode(lossless(5, "png"), OPTIONS)
        assert process._running is not None
        os.kill(process._running.pid, signal.SIGSTOP)
        process._wall_seconds = 0.2
        with pytest.raises(DecodeError) as caught:
            process.decode(lossless(6, "png"), OPTIONS)
        assert caught.value.reason == Reason.TIMEOUT
    finally:
        process.close()


def test_a_decoder_that_was_killed_is_started_again() -> None:
    process = DecoderProcess()
    try:
        process.decode(lossless(5, "png"), OPTIONS)
        assert process._running is not None
        os.kill(process._running.pid, signal.SIGKILL)
        assert (process.decode(lossless(6, "png"), OPTIONS).rgb == pixels(6)).all()
    finally:
        process.close()


def test_an_svg_that_unfolds_for_ever_ends() -> None:
    layers = b"<circle id='g0' r='9'/>" + b"".join(
        b"<g id='g%d'>%s</g>" % (n, b"<use href='#g%d'/>" % (n - 1) * 10) for n in range(1, 12)
    )
    process = DecoderProcess(cpu_seconds=0)
    try:
        with pytest.raises(DecodeError) as caught:
            process.decode(LAUGHS % layers, OPTIONS)
        assert caught.value.reason in (Reason.SVG_BROKEN, Reason.TIMEOUT, Reason.RESOURCE)
    finally:
        process.close()
