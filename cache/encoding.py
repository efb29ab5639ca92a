"""Runs the images of a plan through the encoder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cafe.cache.arrays import as_stored
from cafe.cache.decoding import decode
from cafe.cache.plan import Plan, batches
from cafe.cache.report import Clocks, ExtractionProgress
from cafe.errors import InputError, UnreadableImageError
from cafe.features import Split

ProgressCallback = Callable[[ExtractionProgress], None]
OnError = Literal["skip", "fail"]


class ImageEncoding:
    """The images of a plan, split by split, with one progress over all of them.

    Attributes
    ----------
    unreadable : list of dict
        Images so far that could not be decoded: ``split``, ``sample_id``, ``reason``.
    rate : float
        Images per second so far.
    """

    def __init__(self, plan: Plan, on_error: OnError, clocks: Clocks, tell: ProgressCallback) -> None:
        self.plan, self.on_error, self.clocks, self.tell = plan, on_error, clocks, tell
        self.unreadable: list[dict[str, str]] = []
        self.done = 0
        self.rate = 0.0
        self._start = perf_counter()

    def split(self, name: str) -> tuple[Split, NDArray[np.int64]]:
        """Encode one split.

        Returns
        -------
        Split, ndarray of shape (n,), int64
            Rows of the readable images in their order, and the bytes of each.

        Raises
        ------
        InputError
            If no image can be read, or under ``on_error="fail"`` if one cannot.
        """
        dataset, encoder = self.plan.dataset, self.plan.encoder
        given = dataset.splits[name]
        features = np.empty((len(given), encoder.dim), dtype=self.plan.stored_dtype)
        rows: list[int] = []  # of the data set's split, that have features
        images = decode(dataset, name, encoder.cropper, ahead=2 * encoder.batch_size)
        with closing(images):
            for batch in batches(len(given), encoder.batch_size):
                with self.clocks.running("read"):
                    decoded = [next(images) for _ in batch]
                crops = []
                for index, crop in zip(batch, decoded, strict=True):
                    if isinstance(crop, UnreadableImageError):
                        self._record(name, crop)
                    else:
                        rows.append(index)
                        crops.append(crop)
                if crops:
                    with self.clocks.running("encode"):
                        encoded = encoder.encode_images(np.stack(crops))  # (b, height, width, 3) to (b, d)
                    what = f"image_features of split {name!r}, images {batch.start} to {batch.stop - 1},"
                    features[len(rows) - len(crops) : len(rows)] = as_stored(encoded, self.plan.stored_dtype, what)
                self._report(name, len(batch))
        if not rows:
            raise InputError(f"no image of split {name!r} of {dataset.name} can be read; {self._last_reason()}")
        ids = np.array([given.sample_ids[row] for row in rows], dtype=np.str_)
        labels = np.asarray(given.labels, dtype=np.int64)[rows]
        return Split(features[: len(rows)], labels, ids), np.asarray(given.sizes, dtype=np.int64)[rows]

    def _record(self, split: str, error: UnreadableImageError) -> None:
        if self.on_error == "fail":
            raise InputError(f"{error} (split {split!r}). Repair or remove it, or use --on-error skip") from error
        self.unreadable.append({"split": split, "sample_id": error.sample_id, "reason": error.reason})

    def _report(self, split: str, n: int) -> None:
        self.done += n
        self.rate = self.done / max(perf_counter() - self._start, 1e-9)
        progress = ExtractionProgress("images", split, self.done, self.plan.n_images, self.rate, len(self.unreadable))
        self.tell(progress)

    def _last_reason(self) -> str:
        last = self.unreadable[-1]
        return f"the last one, {last['sample_id']!r}: {last['reason']}"
