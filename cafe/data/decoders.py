"""JPEG decoders to choose from by name: Pillow, or an optional one.

``pillow`` is the default, and what every figure of the docs was made with. ``simplejpeg`` (extra
``cafe-clip[simplejpeg]``) calls libjpeg-turbo itself. Each brings its own build of that library: their speed and, by a
few levels, their pixels can differ where the builds do, so the decoder stands in the fingerprint of a cache, and
nothing chooses it but its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec

from PIL import Image

from cafe.errors import MissingDependencyError, unknown_name

PILLOW = "pillow"
SIMPLEJPEG = "simplejpeg"
DECODERS = (PILLOW, SIMPLEJPEG)

# Of this thread's call alone: data sets are asked for images from many threads, by an interface without decoders.
_chosen: ContextVar[str] = ContextVar("decoder", default=PILLOW)

# Pillow's mode, and what simplejpeg is asked for. CMYK is left to Pillow, whose conversion is the documented one.
_COLOURS = {"RGB": "RGB", "L": "GRAY"}


def check_decoder(name: str) -> None:
    """Refuse a decoder that is not known, or not installed.

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
    """Return the decoder of this thread's block; ``"pillow"`` outside of any."""
    return _chosen.get()


def decode_jpeg(image: Image.Image, content: bytes) -> Image.Image | None:
    """Decode an RGB or grey JPEG file with simplejpeg.

    Parameters
    ----------
    image : PIL.Image.Image
        The same file, opened by Pillow, of which only the header is used.
    content : bytes
        The file.

    Returns
    -------
    PIL.Image.Image or None
        Mode RGB or L, with the header's ``info`` (EXIF stands there), not turned upright. None if it is no such file,
        or one that simplejpeg finds fault with: Pillow then decides, by the content of the file alone.
    """
    if image.format != "JPEG" or image.mode not in _COLOURS:
        return None
    import simplejpeg

    try:
        pixels = simplejpeg.decode_jpeg(content, colorspace=_COLOURS[image.mode])
    except ValueError:
        return None
    decoded = Image.fromarray(pixels[:, :, 0] if image.mode == "L" else pixels)
    decoded.info = dict(image.info)
    return decoded
