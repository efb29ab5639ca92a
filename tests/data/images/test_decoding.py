import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cafe.data.images.decoding import MAX_PIXELS, read_image
from cafe.errors import UnreadableImageError


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def first_pixel(content: bytes) -> tuple[int, ...]:
    image = read_image(content, "x")
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def png(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG written by hand, so that what Pillow reads is not what Pillow wrote."""

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 1), (255, 255, 255))  # the lower left corner goes to the upper left
    upright = read_image(encoded(image, "PNG", exif=exif), "x")
    assert upright.size == (2, 4)
    assert upright.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_is_ignored() -> None:
    content = encoded(Image.new("RGB", (4, 2), "red"), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x00garbage")
    assert read_image(content, "x").size == (4, 2)


def test_grey() -> None:
    assert first_pixel(encoded(Image.new("L", (2, 2), 77), "PNG")) == (77, 77, 77)


def test_black_and_white() -> None:
    assert first_pixel(encoded(Image.new("1", (2, 2), 1), "PNG")) == (255, 255, 255)


def test_palette() -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert first_pixel(encoded(image, "PNG")) == (10, 20, 30)


def test_cmyk() -> None:
    red = first_pixel(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert red[0] > 245
    assert max(red[1:]) < 10


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257 * 100, 100), (65535, 255), (257 * 100 + 200, 101)])
def test_sixteen_bit_grey_is_scaled_not_clipped(value: int, expected: int) -> None:
    content = png(1, 1, 16, 0, b"\0" + struct.pack(">H", value))
    assert first_pixel(content) == (expected,) * 3


def test_sixteen_bit_tiff() -> None:
    image = Image.fromarray(np.full((2, 2), 257 * 50, dtype=np.uint16))
    assert first_pixel(encoded(image, "TIFF")) == (50, 50, 50)


def test_sixteen_bit_rgb_keeps_the_upper_bits() -> None:
    content = png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 0x10FF, 0x2000, 0xFFFF))
    assert first_pixel(content) == (0x10, 0x20, 0xFF)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_thirty_two_bits_are_refused(dtype: type) -> None:
    content = encoded(Image.fromarray(np.ones((2, 2), dtype=dtype)), "TIFF")
    with pytest.raises(UnreadableImageError, match="32 bits"):
        read_image(content, "x")


def test_transparency_is_composited_on_white() -> None:
    assert first_pixel(encoded(Image.new("RGBA", (2, 2), (200, 0, 0, 0)), "PNG")) == (255, 255, 255)
    assert first_pixel(encoded(Image.new("RGBA", (2, 2), (200, 0, 0, 255)), "PNG")) == (200, 0, 0)
    half = first_pixel(encoded(Image.new("LA", (2, 2), (0, 128)), "PNG"))
    assert all(126 <= channel <= 128 for channel in half)


def test_a_transparent_colour_is_composited_on_white() -> None:
    content = encoded(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert first_pixel(content) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([9, 9, 9])
    assert first_pixel(encoded(palette, "PNG", transparency=0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    red, green, blue = first_pixel(content)
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"hello, I am text", "not an image"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image")],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        read_image(path, "cat/photo.jpg")
    assert caught.value.sample_id == "cat/photo.jpg"
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_truncated(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encoded(noise, kind)
    with pytest.raises(UnreadableImageError):
        read_image(content[: len(content) // 2], "x")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="no such file"):
        read_image(tmp_path / "gone.jpg", "gone.jpg")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("own_limit", [None, 10**12])
def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch, own_limit: int | None) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", own_limit)
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(UnreadableImageError, match="limit"):
        read_image(png(side, side, 1, 0, b""), "bomb")


def test_pillows_own_limit_is_refused_too() -> None:
    with pytest.raises(UnreadableImageError, match="decompression bomb"):
        read_image(png(60_000, 60_000, 1, 0, b""), "bomb")


def test_the_first_page_of_a_tiff() -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert first_pixel(content) == (255, 0, 0)


def test_exif_orientation_of_a_photograph() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = Image.new("L", (16, 8), 0)
    image.paste(255, (0, 0, 8, 8))
    upright = read_image(encoded(image, "JPEG", exif=exif, quality=95), "x")
    assert upright.size == (16, 8)
    assert upright.getpixel((2, 4))[0] < 20
    assert upright.getpixel((13, 4))[0] > 235


@pytest.mark.parametrize(("lightness", "expected"), [(255, 255), (0, 0)])
def test_lab(lightness: int, expected: int) -> None:
    content = encoded(Image.new("LAB", (2, 2), (lightness, 128, 128)), "TIFF")  # a and b are zero at 128
    assert all(abs(channel - expected) <= 1 for channel in first_pixel(content))


def test_an_image_of_no_width() -> None:
    with pytest.raises(UnreadableImageError):
        read_image(png(0, 1, 8, 0, b""), "x")


@pytest.mark.parametrize("cut", [3, 20, 60])
def test_cut_anywhere(cut: int) -> None:
    content = encoded(Image.new("RGB", (64, 64), "red"), "PNG")
    with pytest.raises(UnreadableImageError):
        read_image(content[:cut], "x")
