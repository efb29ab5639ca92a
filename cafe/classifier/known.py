"""Features of image files that are in a cache already, so that predicting need not encode these files."""

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
    """Look up the features of image files in the caches of a folder.

    Parameters
    ----------
    images : sequence of ImageInput or None
        Images to classify; only files can be looked up. None where an iterator gives them.
    encoder : Encoder
        A cache must have been made with its weights, preprocessing and dtype.
    decoder : str
        Of JPEG files.
    folder : Path
        The folder of all caches.
    unprojected : bool, default=False
        Whether features before the projection are needed too.

    Returns
    -------
    KnownRows
        Rows of caches that hold files of the same sizes, or of all caches where sizes are not known. An image is looked
        up among them by its bytes.
    """
    if isinstance(encoder, EncoderPair):
        return KnownByBoth([known_features(images, part, decoder, folder) for part in encoder.encoders])
    files = [image.source for image in images or () if isinstance(image.source, Path)]
    sizes = [path.stat().st_size for path in files if path.is_file()]
    if images is None:
        sizes = [0]
    if not sizes:
        return NOTHING_KNOWN
    try:
        plan = plan_extraction(
            _Files(sizes),
            encoder,
            templates=["{}"],
            projection_features=unprojected,
            decoder=decoder,
            images_alone=True,
        )
    except InputError:  # an encoder without a projection, of whose features none can be unprojected
        return NOTHING_KNOWN
    return find_known_rows(plan, [folder], any_size=images is None)


class _Files(Dataset):
    """A data set of files of which only the sizes are known, to plan the extraction whose features are looked up."""

    name = "files"
    class_names = ("",)
    notes: list[str] = []

    def __init__(self, sizes: Sequence[int]) -> None:
        ids = [str(number) for number in range(len(sizes))]
        labels = np.zeros(len(sizes), dtype=np.int64)
        self.splits = {"new": ImageSplit(ids, labels, np.array(sizes, dtype=np.int64))}

    def image(self, split: str, index: int) -> Image.Image:
        """Raise an error, since there are no bytes: no image of these is ever opened."""
        return read_image(b"", self.splits[split].sample_ids[index])
