"""The images that a run was fitted on, where the images and their features are still on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.format.reader import read_features
from cafe.classifier.images import SampleImages
from cafe.data.opening import open_dataset
from cafe.errors import CafeError
from cafe.files import replacing
from cafe.methods.inputs.cosines import unit_length
from cafe.runs import LOCAL_FILE

if TYPE_CHECKING:
    from PIL import Image

MOST_SEARCHED = 50_000  # images that are searched for neighbours: 100 MB of float32 at a width of 512


@dataclass(frozen=True)
class FitSource:
    """The places of a fit's images and features on the machine that fitted.

    It is a file beside the run, which is never shared with the run.

    Attributes
    ----------
    data : str or None
        A data set: a path, or a name of `cafe datasets`.
    root : str or None
        Folder that holds named data sets.
    split : str or None
        The shares of train, val and test that the user asked for.
    cache : str or None
        The cache of its features.
    second_cache : str or None
        That of the second encoder, where there are two.
    """

    data: str | None = None
    root: str | None = None
    split: str | None = None
    cache: str | None = None
    second_cache: str | None = None

    @classmethod
    def of(cls, data: Any, root: Path | str | None, split: str | None, caches: Sequence[Path]) -> FitSource:
        """Return the source of a fit with absolute paths; of one cache, of two, or of none."""
        named = os.fspath(data) if isinstance(data, str | os.PathLike) else None
        if named is not None and Path(named).expanduser().exists():
            named = str(Path(named).expanduser().absolute())
        return cls(
            named,
            None if root is None else str(Path(root).expanduser().absolute()),
            split,
            *(str(cache.absolute()) for cache in caches),
        )

    def write(self, run: Path) -> None:
        """Write the file beside a run."""
        with replacing(run / LOCAL_FILE) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, run: Path) -> FitSource | None:
        """Read the file beside a run; None where there is none, or it cannot be read."""
        try:
            return cls(**json.loads((run / LOCAL_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


@dataclass(frozen=True)
class TrainingImages:
    """Features of training images, and the source of their pictures.

    Attributes
    ----------
    features : ndarray of shape (n, d)
        Of unit length, float32.
    labels : ndarray of shape (n,), int64
        Class of each.
    sample_ids : ndarray of shape (n,), str
        As the data set names it.
    source : FitSource
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    sample_ids: NDArray[np.str_]
    source: FitSource

    @cached_property
    def _images(self) -> SampleImages:
        """The images of the run's data set; empty where the data set cannot be opened on this machine."""
        if self.source.data is None:
            return SampleImages(None)
        try:
            root = None if self.source.root is None else Path(self.source.root)
            return SampleImages(open_dataset(self.source.data, root, lenient=True, split=self.source.split))
        except (CafeError, OSError):
            return SampleImages(None)

    def nearest(self, features: NDArray[np.floating[Any]], k: int) -> list[tuple[int, float]]:
        """Return rows of the k images nearest to features (d,), with their cosines, the nearest first."""
        cosines = self.features @ unit_length(np.asarray(features, dtype=np.float32))  # (n,)
        k = min(k, len(cosines))
        best = np.argpartition(-cosines, k - 1)[:k] if k else np.zeros(0, dtype=np.int64)
        return [(int(row), float(cosines[row])) for row in best[np.argsort(-cosines[best], kind="stable")]]

    def picture(self, row: int) -> Image.Image | None:
        """Open an image; None where it no longer exists."""
        return self._images.open(str(self.sample_ids[row]))


def training_images(
    source: FitSource | None,
    image_fingerprint: str | None,
    fitted: frozenset[bytes] | None,
    *,
    unprojected: bool = False,
) -> TrainingImages | None:
    """Find the images that a run was fitted on.

    Parameters
    ----------
    source : FitSource or None
        Where the fit read them from.
    image_fingerprint : str or None
        Of the image features that the run was fitted on; a cache with another fingerprint is not taken.
    fitted : frozenset of bytes or None
        SHA-256 of the images; where it is None or empty, the images of split train are taken.
    unprojected : bool, default=False
        Whether the method reads features before the encoder's projection, which are not compared here.

    Returns
    -------
    TrainingImages or None
        None where their features are not on this machine.
    """
    if source is None or source.cache is None or unprojected:
        return None
    try:
        cache = read_features(Path(source.cache), memmap=True)
        if source.second_cache is not None:
            cache = cache.join(read_features(Path(source.second_cache), memmap=True))
    except (CafeError, OSError):
        return None
    if image_fingerprint is None or cache.provenance.get("image_fingerprint") != image_fingerprint:
        return None
    rows, labels, ids = [], [], []
    for name, split in cache.splits.items():
        if fitted and split.image_sha256 is not None:
            was_fitted = np.array([row.tobytes() in fitted for row in split.image_sha256], dtype=bool)
        else:
            was_fitted = np.full(len(split), name == "train")
        rows.append(np.asarray(split.image_features)[was_fitted].astype(np.float32))
        labels.append(split.labels[was_fitted])
        ids.append(split.sample_ids[was_fitted])
    features = np.concatenate(rows)
    if not len(features):
        return None
    kept = _sampled(len(features))
    return TrainingImages(unit_length(features[kept]), np.concatenate(labels)[kept], np.concatenate(ids)[kept], source)


def _sampled(number: int) -> NDArray[np.int64] | slice:
    """Return all rows, or a random sample that is small enough to be searched for every image."""
    if number <= MOST_SEARCHED:
        return slice(None)
    return np.sort(np.random.default_rng(0).permutation(number)[:MOST_SEARCHED])


def spread_over_classes(labels: NDArray[np.int64], number: int) -> Sequence[int]:
    """Return the rows of a few images from as many classes as possible.

    Examples
    --------
    >>> spread_over_classes(np.array([0, 0, 0, 1, 1]), 3)
    [0, 3, 1]
    """
    place = np.zeros(len(labels), dtype=np.int64)  # of each row among the rows of its class
    for label in np.unique(labels):
        of_class = labels == label
        place[of_class] = np.arange(of_class.sum())
    order: list[int] = np.lexsort((np.arange(len(labels)), place))[:number].tolist()
    return order
