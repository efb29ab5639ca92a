"""The optional JPEG decoder: nearly Pillow's pixels, its outcomes, and never by itself."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from cafe.data.images import decoding as decoders
from cafe.data.images.decoding import MAX_PIXELS, check_decoder, chosen_decoder, decoding_with, read_image
from cafe.errors import InputError, MissingDependencyError, UnreadableImageError

FAR = 4  # levels: both are libjpeg-turbo, whose builds and versions round in different places


def photo(mode: str = "RGB", width: int = 61, height: int = 45) -> Image.Image:
    """Smooth colours with a sharp edge, of odd size, so that chroma is interpolated everywhere."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([x, y, (x - y) ** 2], axis=-1) * 255
    pixels[height // 2 :, : width // 3] = (250, 20, 60)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def both(content: bytes) -> tuple[Image.Image, Image.Image]:
    pytest.importorskip("simplejpeg", reason="the extra [simplejpeg] is not installed")
    with decoding_with("simplejpeg"):
        return read_image(content, "x"), read_image_by_pillow(content)


def read_image_by_pillow(content: bytes) -> Image.Image:
    with decoding_with("pillow"):
        return read_image(content, "x")


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"quality": 30}], ids=str
)
def test_pixels_are_nearly_those_of_pillow(options: dict[str, object]) -> None:
    fast, pillow = (np.asarray(image).astype(int) for image in both(jpeg(photo(), **options)))
    assert fast.shape == pillow.shape == (45, 61, 3)
    assert np.abs(fast - pillow).max() <= FAR


def test_simplejpeg_really_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    simplejpeg = pytest.importorskip("simplejpeg", reason="the extra [simplejpeg] is not installed")
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda content, colorspace: np.full((45, 61, 3), 9, np.uint8))
    fast, pillow = both(jpeg(photo()))
    assert fast.getpixel((30, 20)) == (9, 9, 9) != pillow.getpixel((30, 20))


def test_nvjpeg_needs_a_gpu() -> None:
    pytest.importorskip("torchvision", reason="the extra [nvjpeg] is not installed")
    with pytest.raises(InputError, match="runs on a CUDA device"), decoding_with("nvjpeg"):
        pass


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_nvjpeg_asks_torchvision(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """There is no GPU: torchvision's own decoder for CPUs stands for it, behind the same call."""
    pytest.importorskip("torchvision", reason="the extra [nvjpeg] is not installed")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("cafe.compute.choose_device", lambda device: "cpu")
    content = jpeg(photo(mode))
    with decoding_with("nvjpeg"):
        decoded = read_image(content, "x")
    pillow = read_image_by_pillow(content)
    assert decoded.mode == pillow.mode == "RGB"
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(pillow).astype(int)).max() <= FAR


def test_grey_becomes_rgb() -> None:
    fast, pillow = both(jpeg(photo("L")))
    assert fast.mode == pillow.mode == "RGB"
    assert np.abs(np.asarray(fast).astype(int) - np.asarray(pillow)).max() <= FAR


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    fast, pillow = both(jpeg(photo(), exif=exif))
    assert fast.size == pillow.size == ((45, 61) if orientation > 4 else (61, 45))
    assert np.abs(np.asarray(fast).astype(int) - np.asarray(pillow)).max() <= FAR


@pytest.mark.parametrize("mode", ["CMYK", "RGB", "L"])
def test_other_kinds_go_through_pillow(mode: str) -> None:
    buffer = io.BytesIO()
    photo(mode).save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    fast, pillow = both(buffer.getvalue())
    assert np.array_equal(fast, pillow)


def test_a_file_that_simplejpeg_complains_about_is_decided_by_pillow() -> None:
    sound = jpeg(photo())
    noisy = sound[:-2] + b"\x00\x01\x02" + sound[-2:]  # bytes before the end marker: a warning to libjpeg
    fast, pillow = both(noisy)
    assert np.abs(np.asarray(fast).astype(int) - np.asarray(pillow)).max() <= FAR
    with decoding_with("simplejpeg"), pytest.raises(UnreadableImageError, match="truncated"):
        read_image(sound[:-40], "x")


def test_a_bomb_is_refused() -> None:
    pytest.importorskip("simplejpeg", reason="the extra [simplejpeg] is not installed")
    content = bytearray(jpeg(Image.new("L", (8, 8))))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = b"\xff\x00\xff\x00"  # 65280 x 65280 pixels
    assert MAX_PIXELS < 0xFF00**2
    with decoding_with("simplejpeg"), pytest.raises(UnreadableImageError, match="pixels|bomb"):
        read_image(bytes(content), "x")


def test_the_choice_is_of_the_block_and_its_thread_alone() -> None:
    pytest.importorskip("simplejpeg", reason="the extra [simplejpeg] is not installed")
    with ThreadPoolExecutor(1) as pool, decoding_with("simplejpeg"):
        assert chosen_decoder() == "simplejpeg"
        assert pool.submit(chosen_decoder).result() == "pillow"
    assert chosen_decoder() == "pillow"


def test_unknown_and_missing_decoders_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"simplejpg.*simplejpeg"):
        check_decoder("simplejpg")
    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"cafe-clip\[simplejpeg\]"), decoding_with("simplejpeg"):
        pass
    check_decoder("pillow")
