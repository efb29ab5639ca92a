"""Decodes images: the only module that turns bytes into RGB pixels.

Kinds of images and how they are decoded:

=========================================  ===================================================================
EXIF orientation                           applied; an EXIF block that cannot be read is ignored
grey, black-and-white, palette, YCbCr      converted to RGB
CMYK                                       converted to RGB without a colour profile, as Pillow does
CIELAB                                     converted to sRGB by Pillow's colour management
16-bit grey                                divided by 257, so that white stays white (Pillow alone would clip)
16-bit RGB                                 the upper 8 bits of each channel, as Pillow reads it
32-bit integer or float                    refused: nothing says which value is white
transparency (alpha, or a colour key)      composited on white
animation, several pages                   the first frame
HEIC                                       read where the extra cafe-clip[heic] is installed, else refused
truncated, empty, or not an image          refused
more than 178,956,970 pixels               refused as a decompression bomb (Pillow's own limit)
a pipe, a device, or more than 1 GiB       refused before it is opened
=========================================  ===================================================================

Refused means :class:`cafe.errors.UnreadableImageError`, with the sample's id and the reason.

The pixels of RGB and grey JPEG files come from a decoder that is chosen by name, with :func:`decoding_with`. ``pillow``
is the default, and what every figure of the docs was made with. ``simplejpeg`` (extra ``cafe-clip[simplejpeg]``) calls
libjpeg-turbo itself, ``nvjpeg`` (extra ``cafe-clip[nvjpeg]``) NVIDIA's decoder on a GPU, through torchvision. Their
speed and, by a few levels, their pixels can differ. Therefore the decoder is part of a cache's fingerprint, and is
chosen by name only. Pillow always decodes the rest: other formats, MPO, CMYK, images that are already open, and files
that the decoder rejects. The table is true of all decoders.
"""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cafe.data.images.decoders import DECODERS, NVJPEG, PILLOW, SIMPLEJPEG
from cafe.data.images.other_formats import kind_by_content, reads_heic
from cafe.errors import InputError, MissingDependencyError, UnreadableImageError, unknown_name
from cafe.foreign import reason_of

# A context variable, since many threads ask data sets for images by a method that has no parameter for the decoder.
_chosen: ContextVar[str] = ContextVar("decoder", default=PILLOW)

# Pillow's mode, and simplejpeg's name for it. Pillow decodes CMYK, since the table documents its conversion.
_COLOURS = {"RGB": "RGB", "L": "GRAY"}

MAX_PIXELS = 178_956_970
MAX_FILE_BYTES = 2**30  # a picture of so many pixels, 16 bits each of three channels and not compressed, is 1.07 GB
# Pillow warns of sound photographs from half of that number on; this module refuses images above it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# A list, since Pillow also reads formats that start other programs (EPS) or show no scene.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def read_image(source: Path | bytes, sample_id: str) -> Image.Image:
    """Decode one image as RGB, by the rules of the module's table.

    Parameters
    ----------
    source : Path or bytes
        File, or its content.
    sample_id : str
        Names the image in the error.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, loaded, not tied to a file.

    Raises
    ------
    UnreadableImageError
        If the image cannot be decoded.

    Examples
    --------
    >>> content = io.BytesIO()
    >>> Image.new("LA", (2, 1), (0, 0)).save(content, "PNG")
    >>> read_image(content.getvalue(), "see-through").getpixel((0, 0))
    (255, 255, 255)
    """
    content = source if isinstance(source, bytes) else read_content(source, sample_id)
    if not content:
        raise UnreadableImageError(sample_id, "the file is empty")
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            return _decode(image, content)
    except UnidentifiedImageError as error:
        kind = kind_by_content(content)
        reason = "it is not an image, or of a kind that is not read here" if kind is None else f"it is {kind}"
        raise UnreadableImageError(sample_id, reason) from error
    # A damaged file makes a decoder raise nearly anything, from OSError to zlib.error and IndexError.
    except Exception as error:
        raise UnreadableImageError(sample_id, str(error) or type(error).__name__) from error


def read_content(path: Path, sample_id: str) -> bytes:
    """Read the bytes of an image's file.

    Parameters
    ----------
    path : Path
        The file.
    sample_id : str
        Names the image in the error.

    Raises
    ------
    UnreadableImageError
        If the file cannot be read, is larger than 1 GiB, or is not a regular file (reading a pipe might never end).
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError(sample_id, "it is no regular file, but a pipe, a device or a folder")
        if status.st_size > MAX_FILE_BYTES:
            raise UnreadableImageError(
                sample_id, f"its file has {status.st_size:,} bytes, more than the limit of {MAX_FILE_BYTES:,}"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise UnreadableImageError(sample_id, reason_of(error)) from error


def as_rgb(image: Image.Image, sample_id: str) -> Image.Image:
    """Return an open image as RGB, by the rules of the module's table; the image itself is not changed.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode.
    sample_id : str
        Names the image in the error.

    Raises
    ------
    UnreadableImageError
        If the image cannot be decoded.
    """
    try:
        return _decode(image)
    except Exception as error:  # as in read_image
        raise UnreadableImageError(sample_id, str(error) or type(error).__name__) from error


def _formats() -> list[str]:
    """Return the formats that Pillow may open here."""
    Image.init()
    if "HEIF" not in Image.OPEN and reads_heic():
        import pillow_heif

        pillow_heif.register_heif_opener()
    return [name for name in _FORMATS if name in Image.OPEN]


def _decode(image: Image.Image, content: bytes | None = None) -> Image.Image:
    """Decode an image that Pillow has opened; ``content`` is its file, which another decoder may need."""
    # Checked before any pixel is decoded, whatever limit the calling program has set in Pillow.
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than the limit of {MAX_PIXELS}")
    if content is not None and chosen_decoder() != PILLOW:
        decoded = decode_jpeg(image, content)
        if decoded is not None:
            return _to_rgb(_upright(decoded))
    image.load()
    return _to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(image)
    # Cameras and editors write broken EXIF (ImageNet has such files); the pixels are sound.
    except Exception:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB."""
    # Pillow opens a 16-bit PNG as 32-bit integers in some versions.
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.round(values / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, and nothing says which value is white")
    if image.mode in _ALPHA or "transparency" in image.info:
        see_through = image.convert("RGBA")
        white = Image.new("RGBA", see_through.size, "white")
        return Image.alpha_composite(white, see_through).convert("RGB")
    return image.convert("RGB")


def check_decoder(name: str) -> None:
    """Raise an error for a decoder that is unknown or not installed.

    Raises
    ------
    InputError
        If there is none of that name.
    MissingDependencyError
        If its package is not installed.

    Examples
    --------
    >>> check_decoder("pillow")
    """
    if name not in DECODERS:
        raise unknown_name("decoder", name, DECODERS)
    if name == SIMPLEJPEG and find_spec("simplejpeg") is None:
        raise MissingDependencyError("simplejpeg", "simplejpeg", "decoding with --decoder simplejpeg")
    if name == NVJPEG:
        if find_spec("torchvision") is None:
            raise MissingDependencyError("torchvision", "nvjpeg", "decoding with --decoder nvjpeg")
        import torch

        if not torch.cuda.is_available():
            raise InputError("decoder 'nvjpeg' runs on a CUDA device, and PyTorch sees none here; use pillow")


@contextmanager
def decoding_with(name: str) -> Iterator[None]:
    """Decode JPEG files with a decoder within this block, in this thread alone.

    Raises
    ------
    InputError, MissingDependencyError
        As :func:`check_decoder`.

    Examples
    --------
    >>> with decoding_with("pillow"):
    ...     chosen_decoder()
    'pillow'
    """
    check_decoder(name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen_decoder() -> str:
    """Return the decoder that :func:`decoding_with` chose for this thread; ``"pillow"`` outside of it."""
    return _chosen.get()


def decode_jpeg(image: Image.Image, content: bytes) -> Image.Image | None:
    """Decode an RGB or grey JPEG file with the decoder of this thread's block.

    Parameters
    ----------
    image : PIL.Image.Image
        The same file, opened by Pillow, of which only the header is used.
    content : bytes
        The file.

    Returns
    -------
    PIL.Image.Image or None
        Mode RGB or L, with the header's ``info`` (which has the EXIF block), not turned upright. None for any other
        file, and for one that the decoder rejects, which Pillow then decodes.
    """
    if image.format != "JPEG" or image.mode not in _COLOURS:
        return None
    try:
        if chosen_decoder() == NVJPEG:
            pixels = _by_nvjpeg(content, image.mode)
        else:
            import simplejpeg

            pixels = simplejpeg.decode_jpeg(content, colorspace=_COLOURS[image.mode])
    except (ValueError, RuntimeError):
        return None
    decoded = Image.fromarray(pixels[:, :, 0] if image.mode == "L" else pixels)
    decoded.info = dict(image.info)
    return decoded


def _by_nvjpeg(content: bytes, mode: str) -> NDArray[np.uint8]:
    """Decode on this process's GPU, (height, width, 3) or (height, width, 1). Raises RuntimeError.

    The pixels come back to the host, where they are cropped and resized as those of any other decoder. Never run on a
    GPU so far.
    """
    import torch
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_jpeg as decode

    from cafe.compute import choose_device

    given = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    wanted = ImageReadMode.GRAY if mode == "L" else ImageReadMode.RGB
    planes = decode(given, wanted, device=choose_device("auto"))  # (channels, height, width)
    pixels: NDArray[np.uint8] = planes.permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels
