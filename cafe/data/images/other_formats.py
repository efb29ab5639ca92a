"""Kinds of files that cafe does not read as images, and what would read them."""

from __future__ import annotations

import os
from importlib.util import find_spec

HEIC_EXTENSIONS = frozenset({".heic", ".heif", ".hif"})
NOT_AN_IMAGE = "no image by its name"
NOT_UTF8 = "a name that is not UTF-8, to be renamed"

_HEIC = "HEIC, which pip install 'cafe-clip[heic]' reads"
_KINDS = {
    _HEIC: ("heic", "heif", "hif"),
    "PDF, whose pages pdftoppm saves as images": ("pdf",),
    "drawings, to be saved as PNG": ("svg", "svgz", "eps", "ps", "ai", "cdr", "wmf", "emf"),
    "raw files of a camera, to be saved as JPEG or TIFF (darktable and RawTherapee do so)": (
        "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "dng", "orf", "rw2", "raf", "pef", "srw", "raw",
    ),
    "files of an image editor, to be exported as PNG": ("psd", "psb", "xcf", "kra", "afphoto"),
    "JPEG XL, which djxl saves as PNG": ("jxl",),
    "DICOM, whose pixels pydicom reads": ("dcm",),
    "videos, whose frames ffmpeg saves as images": ("mp4", "m4v", "mov", "avi", "mkv", "webm", "mpg", "mpeg", "3gp"),
    "archives, to be unpacked": ("zip", "tar", "gz", "tgz", "bz2", "xz", "7z", "rar"),
}  # fmt: skip
_KIND_OF = {f".{extension}": kind for kind, extensions in _KINDS.items() for extension in extensions}

# How such files begin, whatever they are called; the brand of an ISO media file follows its first box's length.
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def reads_heic() -> bool:
    """Return whether HEIC files can be read, which takes the extra ``heic``."""
    return find_spec("pillow_heif") is not None


def kind_by_name(name: str) -> str:
    """Return the kind of a file that its name shows not to be an image, and what would read it.

    Parameters
    ----------
    name : str
        Of the file; only its extension is looked at.

    Examples
    --------
    >>> kind_by_name("scan.PDF"), kind_by_name("notes.txt")
    ('PDF, whose pages pdftoppm saves as images', 'no image by its name')
    """
    return _KIND_OF.get(os.path.splitext(name)[1].lower(), NOT_AN_IMAGE)  # noqa: PTH122 (many names)


def kind_by_content(content: bytes) -> str | None:
    """Return the kind of a file by its first bytes, and what would read it; None for an unknown kind.

    Parameters
    ----------
    content : bytes
        The file, or how it begins.

    Examples
    --------
    >>> kind_by_content(b"%PDF-1.7")
    'PDF, whose pages pdftoppm saves as images'
    """
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS:
        return _HEIC
    if content.startswith(b"%PDF-"):
        return _KIND_OF[".pdf"]
    return None
