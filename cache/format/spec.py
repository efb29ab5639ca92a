"""Names, version and constants of the format; FORMAT.md explains each."""

from __future__ import annotations

from typing import Final, Literal

FORMAT: Final = "cafe-features"
FORMAT_VERSION: Final = 1
SUFFIX: Final = ".h5"
HDF5_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"

# Version 2 object headers: HDF5 then checks attributes and shapes with checksums of its own.
LIBVER: Final = "v108"
# Big arrays start on a page, so that a memory map of them is aligned.
ALIGNMENT: Final = 4096

StoredDtype = Literal["float16", "float32"]
STORED_DTYPES: Final[tuple[StoredDtype, ...]] = ("float16", "float32")

CLASS_NAMES: Final = "class_names"
TEMPLATES: Final = "templates"
TEXT_FEATURES: Final = "text_features"
PROMPT_FEATURES: Final = "prompt_features"
PROMPT_CLASSES: Final = "prompt_classes"
PROVENANCE: Final = "provenance"
PROJECTION: Final = "projection"
SPLITS: Final = "splits"
IMAGE_FEATURES: Final = "image_features"
LABELS: Final = "labels"
SAMPLE_IDS: Final = "sample_ids"
SIZES: Final = "sizes"
VIEW_FEATURES: Final = "view_features"
PROJECTION_FEATURES: Final = "projection_features"
FULL_LABELS: Final = "full_labels"
FULL_ROWS: Final = "full_rows"

UNKNOWN_SIZE: Final = -1

ARRAY_SHA256: Final = "sha256"
CONTENT_SHA256: Final = "content_sha256"
# Root attributes that tell times; they alone may differ between two files of the same content.
TIMES: Final = frozenset({"created", "seconds_read", "seconds_encode"})
