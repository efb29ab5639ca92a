"""Features of image files that are in a cache already, so that nothing is encoded to name what is on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cafe.cache.extract.known import NOTHING_KNOWN, KnownRows
from cafe.cache.extract.plan import plan_extraction
from cafe.cache.extract.sources import find_known_rows
from cafe.classifier.encoder_pair import EncoderPair, KnownByBoth
from cafe.classifier.images import ImageInput
from cafe.data.base import Dataset, ImageSplit
from cafe.data.images.decoding import read_image
from cafe.encoders.base import Encoder
from cafe.errors import InputError


def known_features(
    images: Sequence[ImageInput] | None, encoder: Encoder, decoder: str, folder: Path, *, unprojected: bool = False
) -> KnownRows:
    """Look through a cache folder for the features of files.

    Parameters
    ----------
    images : sequence of ImageInput or None
        What is to be classified; only files can be found. None where they come piece by piece.
    encoder : Encoder
        Its weights, preprocessing and dtype are those that a cache must have been made with.
    decoder : str
        Of JPEG files.
    folder : Path
        The folder of all caches.
    unprojected : bool, default=False
        Whether the features before the projection are wanted too.

    Returns
    -------
    KnownRows
        Of caches that hold files of the same sizes, or of any where these are not known yet; by which of them an image
        is known is decided by its bytes.
    """
    if isinstance(encoder, EncoderPair):
        return KnownByBoth([known_features(images, one, decoder, folder) for one in encoder.encoders])
    files = [image.source for image in images or () if isinstance(image.source, Path)]
    sizes = [path.stat().st_size for path in files if path.is_file()]
    if images is None:
        sizes = [0]
    if not sizes:
        return NOTHING_KNOWN
    try:
        wanted = plan_extraction(
            _Files(sizes),
            encoder,
            templates=["{}"],
            projection_features=unprojected,
            decoder=decoder,
            images_alone=True,
        )
    except InputError:  # an encoder without a projection, of whose features none can be unprojected
        return NOTHING_KNOWN
    return find_known_rows(wanted, [folder], any_size=images is None)


class _Files(Dataset):
    """Files of which nothing but the sizes is known, in the form of a data set that could be extracted."""

    name = "files"
    class_names = ("",)
    notes: list[str] = []

    def __init__(self, sizes: Sequence[int]) -> None:
        ids = [str(number) for number in range(len(sizes))]
        labels = np.zeros(len(sizes), dtype=np.int64)
        self.splits = {"new": ImageSplit(ids, labels, np.array(sizes, dtype=np.int64))}

    def image(self, split: str, index: int) -> Image.Image:
        """Refuse: nothing is extracted."""
        return read_image(b"", self.splits[split].sample_ids[index])
