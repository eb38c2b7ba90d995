import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from kontext.data.buckets import fit
from kontext.data.decode import MAX_BYTES, Decoded, Reason, decode_image, sniff
from kontext.data.pixels import encode_png
from kontext.errors import DecodeError

LEFT, RIGHT = (200, 30, 40), (20, 60, 210)


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """Red on the left, blue on the right, a green stripe on top: every turn shows."""
    image = Image.new("RGB", (width, height), LEFT)
    image.paste(RIGHT, (width // 2, 0, width, height))
    image.paste((30, 160, 60), (0, 0, width, height // 4))
    return image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def decode(data: bytes, resolution: int | None = None, **options: Any) -> Decoded:
    return decode_image(data, resolution=resolution, background="#ffffff", **options)


def reason(data: bytes, **options: Any) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(data, **options)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def close(rgb: Any, expected: Any, tolerance: int = 12) -> bool:
    difference = np.abs(np.asarray(rgb, np.int16) - np.asarray(expected, np.int16))
    return bool(difference.max() <= tolerance)


# --- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp", "tiff", "avif", "ppm"])
def test_every_format_gives_the_same_picture(kind: str) -> None:
    options: dict[str, Any] = {"jpeg": {"quality": 98, "subsampling": 0}}.get(kind, {})
    if kind == "webp":
        options = {"lossless": True}
    decoded = decode(saved(picture(), kind, **options))
    assert (decoded.format, decoded.orig_size, decoded.frames) == (kind, (48, 32), 1)
    assert decoded.rgb.dtype == np.uint8 and decoded.rgb.shape == (32, 48, 3)
    assert not decoded.alpha and decoded.exif_orientation == 1
    assert close(decoded.rgb[20, 6], LEFT) and close(decoded.rgb[20, 40], RIGHT)


def test_what_is_not_an_image_is_unsupported() -> None:
    for data in (b"hello, this is text", b"%PDF-1.7 ...", b"\0" * 64, b"P9 bogus"):
        assert sniff(data) is None
        assert reason(data) == Reason.UNSUPPORTED_FORMAT
    assert reason(b"") == Reason.EMPTY


def test_the_content_decides_not_another_plugin() -> None:
    """An icon file inside a BMP-looking name cannot reach a parser we did not choose."""
    data = b"BM" + saved(picture(), "png")
    assert reason(data) in (Reason.CORRUPT, Reason.TRUNCATED)


# --- limits --------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + struct.pack(">I", 4)
        + b"IDAT"
    )


def webp_header(width: int, height: int) -> bytes:
    body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"VP8X" + struct.pack("<I", 10) + body
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


@pytest.mark.parametrize("header", [png_header, webp_header])
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((30_000, 30_000), Reason.TOO_MANY_PIXELS),  # Pillow's own bomb error
        ((9_000, 9_000), Reason.TOO_MANY_PIXELS),  # below Pillow's warning
        ((40_000, 100), Reason.SIDE_TOO_LONG),
        ((7, 100), Reason.TOO_SMALL),
    ],
)
def test_sizes_are_refused_from_the_header_alone(
    header: Callable[[int, int], bytes], size: tuple[int, int], expected: Reason
) -> None:
    assert reason(header(*size)) == expected


def test_byte_cap() -> None:
    data = saved(picture(), "png")
    assert reason(data.ljust(MAX_BYTES + 1, b"\0")) == Reason.TOO_MANY_BYTES
    decode(data.ljust(MAX_BYTES, b"\0"))


def test_pillow_limits_are_left_alone() -> None:
    from PIL import ImageFile

    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    decode(saved(picture(), "png"))
    reason(png_header(30_000, 30_000))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp", "tiff"])
def test_truncated_files_are_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), kind)
    assert reason(data[: len(data) // 2]) in (Reason.TRUNCATED, Reason.CORRUPT)
    if kind in ("png", "jpeg", "webp"):
        assert reason(data[: len(data) // 2]) == Reason.TRUNCATED


VALID = [saved(picture(), kind) for kind in ("png", "jpeg", "gif", "webp", "bmp", "tiff", "ppm")]


@settings(max_examples=100)
@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8),
    st.integers(0, 4000),
)
def test_damaged_bytes_give_pixels_or_a_decode_error(
    data: bytes, edits: list[tuple[int, int]], cut: int
) -> None:
    damaged = bytearray(data)
    for position, value in edits:
        damaged[position % len(damaged)] = value
    try:
        decoded = decode(bytes(damaged[: max(1, len(damaged) - cut % len(damaged))]), 16)
    except DecodeError as error:
        assert error.reason in list(Reason)
    else:
        assert decoded.rgb.shape == (16, 16, 3)


@given(st.binary(max_size=300))
def test_random_bytes_never_escape_the_guard(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data)


# --- orientation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"jpeg": {"quality": 98}, "webp": {"lossless": True}}.get(kind, {})
    data = saved(picture(), kind, exif=exif, **options)
    decoded = decode(data)
    upright = picture()
    upright.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(upright))
    assert decoded.exif_orientation == orientation
    assert decoded.rgb.shape == expected.shape
    assert decoded.orig_size == (expected.shape[1], expected.shape[0])
    assert np.abs(decoded.rgb.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_bad_orientation_does_not_lose_the_image(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    decoded = decode(saved(picture(), "jpeg", exif=exif))
    assert decoded.exif_orientation == 1 and decoded.orig_size == (48, 32)


def test_broken_exif_does_not_lose_the_image() -> None:
    decoded = decode(saved(picture(), "jpeg", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage"))
    assert decoded.exif_orientation == 1


# --- colour and alpha ----------------------------------------------------------------------------


def swapped_profile() -> bytes:
    """An sRGB profile with its red and blue primaries exchanged: the colours must follow."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = profile[:600].replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ")
    tags = tags.replace(b"????", b"bXYZ")
    renamed = (tags + profile[600:]).replace("sRGB".encode("utf-16-be"), b"\0s\0w\0a\0p")
    return renamed.replace(b"sRGB", b"swap")


def test_icc_profiles_are_converted() -> None:
    decoded = decode(saved(picture(), "png", icc_profile=swapped_profile()))
    assert decoded.icc == "applied"
    red, blue = decoded.rgb[20, 6].astype(int), decoded.rgb[20, 40].astype(int)
    assert red[2] > red[0] + 80 and blue[0] > blue[2] + 80


def test_an_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    decoded = decode(saved(picture(), "png", icc_profile=profile))
    assert decoded.icc == "srgb"
    assert np.array_equal(decoded.rgb, np.asarray(picture()))


def test_a_broken_profile_is_ignored_and_recorded() -> None:
    decoded = decode(saved(picture(), "png", icc_profile=b"not a profile"))
    assert decoded.icc == "unusable"
    assert np.array_equal(decoded.rgb, np.asarray(picture()))


def test_cmyk_jpeg() -> None:
    decoded = decode(saved(picture().convert("CMYK"), "jpeg", quality=98))
    assert decoded.mode == "CMYK"
    assert close(decoded.rgb[20, 6], LEFT) and close(decoded.rgb[20, 40], RIGHT)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_on_the_background(mode: str) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 16))
    image.paste((0, 0, 0, 128), (0, 0, 8, 4))
    data = saved(image.convert(mode), "png")
    decoded = decode_image(data, resolution=None, background="#ff8000")
    assert decoded.alpha and decoded.mode == mode
    assert close(decoded.rgb[8, 12], (255, 128, 0), 0)
    assert close(decoded.rgb[8, 3], (0, 0, 0), 0)
    assert close(decoded.rgb[1, 3], (127, 64, 0), 2)


def test_palette_with_a_transparent_colour() -> None:
    image = picture().quantize(8)
    clear = image.getpixel((6, 20))
    decoded = decode_image(
        saved(image, "png", transparency=clear), resolution=None, background="#00ff00"
    )
    assert decoded.mode == "P" and decoded.alpha
    assert close(decoded.rgb[20, 6], (0, 255, 0), 0) and close(decoded.rgb[20, 40], RIGHT, 4)


def test_grey_and_bilevel() -> None:
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (16, 1))
    assert np.array_equal(decode(saved(Image.fromarray(ramp), "png")).rgb[..., 1], ramp)
    lines = Image.fromarray(ramp).point(lambda v: 255 * (v > 100)).convert("1")
    assert set(np.unique(decode(saved(lines, "png")).rgb)) == {0, 255}


def test_sixteen_bits_and_floats_keep_their_scale() -> None:
    levels = np.tile(np.linspace(0, 1, 32), (16, 1))
    expected = np.rint(levels * 255).astype(np.uint8)
    deep = Image.fromarray(np.rint(levels * 65535).astype(np.uint16))
    for kind in ("png", "tiff"):
        assert close(decode(saved(deep, kind)).rgb[..., 0], expected, 1)
    image = Image.fromarray(levels.astype(np.float32))
    assert close(decode(saved(image, "tiff")).rgb[..., 2], expected, 1)
    broken = (levels * 1.0).astype(np.float32)
    broken[0, 0], broken[0, 1] = np.nan, np.inf
    assert close(decode(saved(Image.fromarray(broken), "tiff")).rgb[0, :2], 0, 0)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), c) for c in (LEFT, RIGHT, (0, 0, 0))]
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    decoded = decode(data)
    assert decoded.frames == 3
    assert close(decoded.rgb, LEFT, 3)


# --- svg -----------------------------------------------------------------------------------------

DISC = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    b'<circle cx="16" cy="16" r="12" fill="#c00"/></svg>'
)


def test_svg_needs_trust() -> None:
    assert reason(DISC) == Reason.SVG_UNTRUSTED
    assert reason(b"\xef\xbb\xbf <?xml version='1.0'?>\n" + DISC) == Reason.SVG_UNTRUSTED


def test_svg_is_drawn_at_the_target_size_on_the_background() -> None:
    decoded = decode_image(DISC, resolution=64, background="#0000ff", svg=True)
    assert decoded.rgb.shape == (64, 64, 3) and decoded.orig_size == (32, 32)
    assert decoded.format == "svg" and decoded.alpha
    assert close(decoded.rgb[0, 0], (0, 0, 255), 0) and close(decoded.rgb[32, 32], (204, 0, 0), 1)
    again = decode_image(DISC, resolution=64, background="#0000ff", svg=True)
    assert again.pixel_id == decoded.pixel_id


def test_svg_without_viewbox_and_with_own_size() -> None:
    plain = DISC.replace(b'viewBox="0 0 32 32"', b'width="32px" height="32"')
    assert np.array_equal(decode(plain, 48, svg=True).rgb, decode(DISC, 48, svg=True).rgb)


def test_a_wide_svg_is_shown_whole() -> None:
    bar = DISC.replace(b"0 0 32 32", b"0 0 64 32").replace(b'cx="16"', b'cx="52"')
    rgb = decode(bar, 64, svg=True).rgb
    assert rgb.shape == (64, 64, 3)
    assert close(rgb[32, 52], (204, 0, 0), 1) and close(rgb[4, 52], 255, 0)


@pytest.mark.parametrize(
    "data",
    [
        DISC[:-12],
        DISC.replace(b"viewBox", b"viewbox"),
        b"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 a b'/>",
        b"<!DOCTYPE svg [<!ENTITY a 'b'>]>" + DISC,
    ],
)
def test_broken_svg(data: bytes) -> None:
    assert reason(data, resolution=64, svg=True) == Reason.SVG_BROKEN


def test_blank_svg() -> None:
    empty = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"></svg>'
    assert reason(empty, resolution=64, svg=True) == Reason.BLANK


# --- canonical pixels ----------------------------------------------------------------------------


def test_resize_takes_the_centre_square() -> None:
    image = Image.new("RGB", (300, 100), (255, 255, 255))
    image.paste((0, 0, 0), (100, 0, 200, 100))
    decoded = decode(saved(image, "png"), 32)
    assert decoded.orig_size == (300, 100)
    assert decoded.rgb[:, 2:-2].max() <= 8
    tall = decode(saved(image.transpose(Image.Transpose.ROTATE_90), "png"), 32)
    assert tall.rgb[2:-2].max() <= 8


def test_a_square_of_the_right_size_is_untouched() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(decode(encode_png(rgb), 32).rgb, rgb)
    assert fit((32, 32), (32, 32))(rgb) is rgb
