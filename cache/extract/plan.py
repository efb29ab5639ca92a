"""Decides everything about an extraction before the first image is read."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.rows import Draws, rows_to_extract
from cafe.cache.extract.views import Views
from cafe.cache.format.arrays import STORED_DTYPES, StoredDtype
from cafe.cache.format.fingerprint import image_part, text_part
from cafe.cache.format.layout import ALIGNMENT
from cafe.cache.format.provenance import Provenance, library_versions
from cafe.data.base import Dataset
from cafe.data.images.decoding import PILLOW, check_decoder
from cafe.encoders.base import Encoder
from cafe.errors import InputError, unknown_name


@dataclass(frozen=True)
class Plan:
    """What will be extracted from where, with its identity.

    Attributes
    ----------
    dataset, encoder : Dataset, Encoder
        Where images and features come from.
    splits : tuple of str
        In the data set's order.
    templates : tuple of str
        At least one, unless there are prompts.
    prompts : tuple of c tuples of str, or None
        Prompts written per class, in place of templates.
    stored_dtype : str
        ``"float16"`` or ``"float32"``.
    image, text, recorded : mapping
        As in :class:`~cafe.cache.format.provenance.Provenance`.
    rows : mapping of str to ndarray of int64
        Rows of each split that are extracted, ascending; all, unless only few-shot draws are wanted.
    views : Views or None
        Augmentations of every training image.
    draws : Draws or None
        The few-shot draws that ``rows`` were chosen for.
    projection : ndarray of shape (w, d) or None
        The image tower's, where features before it are wanted too.
    decoder : str
        Of JPEG files.
    """

    dataset: Dataset
    encoder: Encoder
    splits: tuple[str, ...]
    templates: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...] | None
    stored_dtype: StoredDtype
    image: Mapping[str, Any]
    text: Mapping[str, Any]
    recorded: Mapping[str, Any]
    rows: Mapping[str, NDArray[np.int64]]
    views: Views | None = None
    draws: Draws | None = None
    projection: NDArray[np.float32] | None = None
    decoder: str = PILLOW

    @property
    def row_width(self) -> int:
        """Numbers of one row of a shard: the feature, and where it is wanted what goes into the projection."""
        return self.encoder.dim + (0 if self.projection is None else len(self.projection))

    def start_images(self, crops: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Begin to encode crops; what is returned waits for the rows (n, ``row_width``)."""
        if self.projection is None:
            return self.encoder.start_images(crops)
        rows = encode_rows(self.encoder, crops, unprojected=True)
        return lambda: rows

    @property
    def n_images(self) -> int:
        """Images of all splits that are extracted."""
        return sum(len(self.rows[name]) for name in self.splits)

    def views_of(self, split: str) -> int:
        """Number of augmentations of each image of a split; views are of training images."""
        return self.views.n if self.views is not None and split == "train" else 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of draws and views, as the provenance records them."""
        drawn = () if self.draws is None else tuple(self.draws.specification()["seeds"])
        return tuple(sorted({*drawn, *(() if self.views is None else (self.views.seed,))}))

    def provenance(self, unreadable: Sequence[Mapping[str, str]] = ()) -> Provenance:
        """Return what a cache made by this plan records."""
        return Provenance(
            dataset=self.dataset.name,
            encoder=self.encoder.id,
            image=self.image,
            text=self.text,
            recorded={"image": self.recorded, "text": self.recorded},
            seeds=self.seeds,
            unreadable=unreadable,
        )

    def bytes_needed(self) -> int:
        """Estimate the size of the file, from above."""
        width = self.row_width * np.dtype(self.stored_dtype).itemsize
        longest = max((len(s.encode("utf-8", "surrogateescape")) for s in self._sample_ids()), default=1)
        rows = self.n_images * (width + 16 + longest)
        rows += sum(self.views_of(name) * len(self.rows[name]) * width for name in self.splits)
        if self.draws is not None:
            rows += sum(8 * (len(self.rows[name]) + len(self.dataset.splits[name])) for name in self.splits)
        text = len(self.templates) * len(self.dataset.class_names) * width
        if self.prompts is not None:  # once as features, once as text in the provenance
            text += sum(width + 8 + 6 * len(prompt) for own in self.prompts for prompt in own)
        return rows + text + 64 * ALIGNMENT

    def _sample_ids(self) -> Iterator[str]:
        for name in self.splits:
            yield from self.dataset.splits[name].sample_ids


def encode_rows(encoder: Encoder, crops: NDArray[np.uint8], *, unprojected: bool) -> NDArray[np.float32]:
    """Encode a batch to rows of a shard: the features (n, d), and behind them what goes into the projection."""
    if unprojected:
        return np.concatenate(encoder.encode_images_unprojected(crops), axis=1)
    return encoder.encode_images(crops)


def make_plan(
    dataset: Dataset,
    encoder: Encoder,
    splits: Sequence[str] | None,
    templates: Sequence[str] | None,
    stored_dtype: StoredDtype,
    prompts: Sequence[Sequence[str]] | None = None,
    *,
    views: Views | None = None,
    draws: Draws | None = None,
    projection_features: bool = False,
    decoder: str = PILLOW,
) -> Plan:
    """Check what was asked for against the data set, and compute its identity.

    Raises
    ------
    InputError
        If a split is not there or empty, no template or prompt is left, the dtype is unknown, views or draws are
        asked for without a train split, or features before a projection that the encoder does not have.
    MissingDependencyError
        If the decoder is not installed.
    """
    check_decoder(decoder)
    if stored_dtype not in STORED_DTYPES:
        raise unknown_name("stored dtype", stored_dtype, STORED_DTYPES)
    names = _chosen_splits(dataset, splits)
    own = None if prompts is None else _checked_prompts(prompts, dataset)
    templates = () if own is not None else tuple(dataset.templates if templates is None else templates)
    if not templates and own is None:
        raise InputError("no template was given; at least one is needed, such as 'a photo of a {}.'")
    if views is not None and "train" not in names:
        raise InputError(f"views are of training images, but extracted are only: {', '.join(names)}")
    projection = encoder.projection() if projection_features else None
    if projection_features and projection is None:
        raise InputError(
            f"encoder {encoder.id!r} has no final projection that is one matrix; leave out --projection-features"
        )
    identity = encoder.identity()
    return Plan(
        dataset=dataset,
        encoder=encoder,
        splits=names,
        templates=templates,
        prompts=own,
        stored_dtype=stored_dtype,
        image=image_part(
            dataset.identity(),
            identity["image"],
            splits=names,
            stored_dtype=stored_dtype,
            views=None if views is None else views.specification(),
            draws=None if draws is None else draws.specification(),
            projection_features=projection_features,
            decoder=decoder,
        ),
        text=text_part(
            dataset.class_names, identity["text"], templates=templates, prompts=own, stored_dtype=stored_dtype
        ),
        recorded=_recorded(encoder, identity["recorded"], decoder),
        rows=rows_to_extract(dataset, names, draws),
        views=views,
        draws=draws,
        projection=projection,
        decoder=decoder,
    )


def _chosen_splits(dataset: Dataset, splits: Sequence[str] | None) -> tuple[str, ...]:
    for name in splits or ():
        if name not in dataset.splits:
            raise unknown_name(f"split of {dataset.name}", name, dataset.splits)
    names = tuple(name for name in dataset.splits if splits is None or name in splits)
    if not names:
        raise InputError(f"no split of {dataset.name} was asked for; possible: {', '.join(dataset.splits)}")
    for name in names:
        if not len(dataset.splits[name]):
            raise InputError(f"split {name!r} of {dataset.name} has no images; leave it out with --splits")
    return names


def _checked_prompts(prompts: Sequence[Sequence[str]], dataset: Dataset) -> tuple[tuple[str, ...], ...]:
    if len(prompts) != len(dataset.class_names) or not all(prompts):
        raise InputError(
            f"prompts need one list for each of the {len(dataset.class_names)} classes of {dataset.name}, "
            f"with at least one prompt in each; got {len(prompts)} lists"
        )
    return tuple(tuple(own) for own in prompts)


def batches(n: int, size: int) -> Iterator[range]:
    """Cut n rows at fixed positions, so that neither speed nor resuming changes a batch.

    Examples
    --------
    >>> list(batches(5, 2))
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    for start in range(0, n, size):
        yield range(start, min(start + size, n))


def _recorded(encoder: Encoder, recorded: Mapping[str, Any], decoder: str) -> dict[str, Any]:
    return {
        **recorded,
        "device": encoder.device,
        "dtype": encoder.dtype,
        "batch_size": encoder.batch_size,
        "platform": f"{platform.system()} {platform.machine()}",
        "libraries": library_versions(*(() if decoder == PILLOW else (decoder,))),
    }
