"""Features of a data set by a frozen encoder, in memory: what all parts of the program pass to each other.

Letters used throughout the project: n samples, d feature width, c classes, m templates, v views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError


def array_summary(array: NDArray[Any]) -> str:
    """Return an array's shape and dtype, for a ``repr`` that stays short.

    Examples
    --------
    >>> array_summary(np.zeros((10, 256), np.float32))
    'array(10, 256) float32'
    """
    return f"array{array.shape} {array.dtype}"


@dataclass(frozen=True, repr=False)
class Split:
    """The image features of one split.

    Attributes
    ----------
    image_features : ndarray of shape (n, d)
        As the encoder returned them, not normalised unless provenance says so.
    labels : ndarray of shape (n,), int64
        Row of ``class_names`` that each sample belongs to.
    sample_ids : ndarray of shape (n,), str
        Path or key of each sample, unique within the data set.
    view_features : ndarray of shape (v, n, d) or None
        Features of seeded augmentations of the same samples.
    projection_features : ndarray of shape (n, width of the tower) or None
        Features before the encoder's projection, for methods that train it.
    full_labels : ndarray of shape (N,), int64, or None
        Labels of the whole split, where only the rows that few-shot draws need were extracted; the draws are made
        from these. None where the whole split is here.
    full_rows : ndarray of shape (n,), int64, or None
        Row of ``full_labels`` that each sample is; given together with it.
    image_sha256 : ndarray of shape (n, 32), uint8, or None
        SHA-256 of the bytes of each encoded image; None where that is not known.
    """

    image_features: NDArray[Any]
    labels: NDArray[np.int64]
    sample_ids: NDArray[np.str_]
    view_features: NDArray[Any] | None = None
    projection_features: NDArray[Any] | None = None
    full_labels: NDArray[np.int64] | None = None
    full_rows: NDArray[np.int64] | None = None
    image_sha256: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        n = len(self.image_features)
        if self.image_features.ndim != 2 or self.labels.shape != (n,) or self.sample_ids.shape != (n,):
            raise InputError(
                f"a split needs image_features (n, d), labels (n,) and sample_ids (n,), but got "
                f"{self.image_features.shape}, {self.labels.shape} and {self.sample_ids.shape}"
            )
        if self.image_sha256 is not None and self.image_sha256.shape != (n, 32):
            raise InputError(f"image_sha256 must be ({n}, 32), one SHA-256 a sample; got {self.image_sha256.shape}")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        held = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return f"Split({', '.join(f'{name}={array_summary(array)}' for name, array in held.items())})"

    def take(self, rows: NDArray[np.int64]) -> Split:
        """Return the split that holds only these rows, in this order."""
        return Split(
            self.image_features[rows],
            self.labels[rows],
            self.sample_ids[rows],
            None if self.view_features is None else self.view_features[:, rows],
            None if self.projection_features is None else self.projection_features[rows],
            image_sha256=None if self.image_sha256 is None else self.image_sha256[rows],
        )


@dataclass(frozen=True, repr=False)
class Features:
    """Everything that a method may learn from: one data set seen once by one frozen encoder, or by two (:meth:`join`).

    Attributes
    ----------
    splits : mapping of str to Split
        Usually ``train``, ``val``, ``test``; a source without a val split has none here.
    class_names : tuple of str
        In label order.
    text_features : ndarray of shape (m, c, d) or None
        One row per template and class, as the encoder returned them; None where no text tower was at hand.
    templates : tuple of str
        The m templates; empty for prompts written per class.
    prompt_features : ndarray of shape (p, d) or None
        One row per prompt written for a class, as the encoder returned it; ``text_features`` is then (1, c, d) and
        holds their class means.
    prompt_classes : ndarray of shape (p,), int64, or None
        Row of ``class_names`` that each of these prompts belongs to; classes may have different numbers of them.
    logit_scale : float
        The encoder's own learned scale (already exponentiated; 100 for OpenAI's CLIP).
    logit_bias : float
        SigLIP's own bias; 0 elsewhere. It moves no softmax prediction, and is kept for those who need it.
    projection : ndarray of shape (width of the tower, d) or None
        The image tower's last linear map, for methods that train it; None where the cache has none.
    second_width : int
        How many columns of the image features, the last ones, are a second encoder's; 0 where there is one encoder.
    provenance : mapping
        Where all this came from; see cache/FORMAT.md. ``dataset``, ``encoder`` and ``fingerprint`` are always there.

    Examples
    --------
    >>> import numpy as np
    >>> split = Split(np.eye(2, dtype=np.float32), np.array([0, 1]), np.array(["a", "b"]))
    >>> text = np.array([[[2.0, 0.0], [0.0, 4.0]]], dtype=np.float32)
    >>> features = Features({"test": split}, ("cat", "dog"), text)
    >>> features.class_embeddings.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    splits: Mapping[str, Split]
    class_names: tuple[str, ...]
    text_features: NDArray[Any] | None = None
    templates: tuple[str, ...] = ()
    logit_scale: float = 100.0
    logit_bias: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    projection: NDArray[Any] | None = None
    prompt_features: NDArray[Any] | None = None
    prompt_classes: NDArray[np.int64] | None = None
    second_width: int = 0

    def __post_init__(self) -> None:
        text, prompts, owners = self.text_features, self.prompt_features, self.prompt_classes
        if (prompts is None) != (owners is None) or (prompts is not None and text is None):
            raise InputError("prompt_features, prompt_classes and text_features must be there together")
        if prompts is not None and owners is not None and owners.shape != prompts.shape[:1]:
            raise InputError(f"each prompt feature needs its class, got {prompts.shape} and {owners.shape}")
        self._check_splits()
        if text is None:
            return
        if text.ndim != 3 or text.shape[1] != len(self.class_names):
            raise InputError(
                f"text_features must be (templates, {len(self.class_names)} classes, width), got {text.shape}"
            )
        for name, split in self.splits.items():
            if split.image_features.shape[1] != text.shape[2]:
                raise InputError(
                    f"text features are {text.shape[2]} wide but the image features of split {name!r} are "
                    f"{split.image_features.shape[1]} wide; they come from different encoders"
                )

    def _check_splits(self) -> None:
        """Refuse splits of different widths, and labels that are no rows of ``class_names``."""
        widths = {name: split.image_features.shape[1] for name, split in self.splits.items()}
        if len(set(widths.values())) > 1:
            shown = ", ".join(f"{name} {width}" for name, width in widths.items())
            raise InputError(f"the splits have features of different widths, so of different encoders: {shown}")
        for name, split in self.splits.items():
            labels, last = split.labels, len(self.class_names) - 1
            if labels.dtype.kind not in "iu":
                raise InputError(f"labels of split {name!r} must be rows of class_names, but are {labels.dtype}")
            if len(labels) and not 0 <= labels.min() <= labels.max() <= last:
                raise InputError(
                    f"labels of split {name!r} go from {labels.min()} to {labels.max()}, but are rows of class_names, "
                    f"0 to {last}"
                )

    def __repr__(self) -> str:
        source = [f"{name}={self.provenance[name]!r}" for name in ("dataset", "encoder") if name in self.provenance]
        splits = [f"{name}={array_summary(split.image_features)}" for name, split in self.splits.items()]
        text = [] if self.text_features is None else [f"text_features={array_summary(self.text_features)}"]
        return f"Features({', '.join([*source, *splits, *text, f'class_names={len(self.class_names)}'])})"

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        facts = {name: str(self.provenance[name]) for name in ("dataset", "encoder") if name in self.provenance}
        facts |= {
            name: f"{len(own):,} images, {array_summary(own.image_features)}" for name, own in self.splits.items()
        }
        facts["classes"] = f"{len(self.class_names):,}: {', '.join(self.class_names[:6])}" + (
            ", ..." if len(self.class_names) > 6 else ""
        )
        facts["text"] = "none" if self.text_features is None else array_summary(self.text_features)
        rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in facts.items())
        return f"<table><caption>cafe features</caption>{rows}</table>"

    @cached_property
    def class_embeddings(self) -> NDArray[np.float32] | None:
        """Unit-length per-class mean of the unit-length text (or prompt) features, (c, d); None without text.

        Computed once; every caller gets the same array.
        """
        if self.text_features is None:
            return None
        from cafe.prompts import class_embeddings, mean_of_prompts

        if self.prompt_features is not None and self.prompt_classes is not None:
            return mean_of_prompts(self.prompt_features, self.prompt_classes, len(self.class_names))
        return class_embeddings(self.text_features)

    def join(self, other: Features) -> Features:
        """Return the features of the same images by two encoders, row beside row.

        Images are the same where their bytes are (``image_sha256``), whatever their names and splits; without hashes,
        where both caches were made of the same sample ids, labels and sizes.

        Parameters
        ----------
        other : Features
            By another encoder, of at least the images that are here.

        Returns
        -------
        Features
            Splits, labels, ids and text of the one that has text (of this one, where both have or neither has).

            ``image_features`` are (n, d1 + d2): the features of the first and, behind them, ``second_width`` = d2
            columns of the other, each part of unit length, as :func:`side_by_side` makes them. So the cosine of two
            images is the mean of their cosines by both. ``text_features`` have zeros in the last d2 columns, where
            there is no text, and ``logit_scale`` is sqrt(2) times as large: logits of text are what they were without
            the second encoder.

            Encoder, fingerprint and image fingerprint of the provenance are both, as ``"A+B"``; ``joined`` holds the
            provenance of each. Views and features before the projection are left out.

        Raises
        ------
        InputError
            If classes, images or their labels differ, both are of one encoder, or one is itself joined.

        Examples
        --------
        >>> sha256 = np.arange(64, dtype=np.uint8).reshape(2, 32)
        >>> ids, labels = np.array(["a", "b"]), np.array([0, 1])
        >>> one = Features({"train": Split(np.eye(2), labels, ids, image_sha256=sha256)}, ("cat", "dog"))
        >>> rows = np.array([[0.0, 3.0, 4.0], [2.0, 0.0, 0.0]])
        >>> two = Features({"train": Split(rows, labels[::-1], ids, image_sha256=sha256[::-1].copy())}, ("cat", "dog"))
        >>> one.join(two).split("train").image_features.tolist()
        [[1.0, 0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.6, 0.8]]
        """
        if self.text_features is None and other.text_features is not None:
            return other.join(self)
        names = [str(features.provenance.get("encoder", "unnamed")) for features in (self, other)]
        _check_joinable(self, other, names)
        splits = {}
        for name, split in self.splits.items():
            second = _rows_of_same_images(name, split, self, other, names)  # (n, d2)
            splits[name] = replace(
                split,
                image_features=side_by_side(split.image_features, second),
                view_features=None,
                projection_features=None,
            )
        (width,) = {part.image_features.shape[1] for part in other.splits.values()}
        both = {
            key: f"{self.provenance.get(key, '')}+{other.provenance.get(key, '')}"
            for key in ("fingerprint", "image_fingerprint")
        }
        provenance = {
            **self.provenance, **both, "encoder": "+".join(names), "joined": [self.provenance, other.provenance],
        }  # fmt: skip
        has_text = self.text_features is not None
        return replace(
            self,
            splits=splits,
            text_features=_with_zeros(self.text_features, width),
            prompt_features=_with_zeros(self.prompt_features, width),
            logit_scale=self.logit_scale * np.sqrt(2).item() if has_text else self.logit_scale,
            projection=None,
            provenance=provenance,
            second_width=width,
        )

    def split(self, name: str) -> Split:
        """Return one split.

        Raises
        ------
        InputError
            If this data set has none of that name; the message lists what it has.
        """
        if name not in self.splits:
            raise InputError(f"there is no split {name!r} here; possible: {', '.join(self.splits)}")
        return self.splits[name]


# Beyond this, features of two encoders are put beside each other in float16, if both are stored in it: as large as
# both caches together.
_MOST_BYTES = 2**31
_ROWS_AT_A_TIME = 16_384


def side_by_side(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Put the features of the same images by two encoders beside each other.

    Parameters
    ----------
    first, second : ndarray of shape (n, d1), ndarray of shape (n, d2)
        Of the same images.

    Returns
    -------
    ndarray of shape (n, d1 + d2)
        Each part of unit length (zeros stay zeros), so that neither encoder counts more for the size of its numbers.
        float32, or float64 where one is; float16 where both are and float32 would need more than 2 GiB.

    Examples
    --------
    >>> side_by_side(np.array([[3.0, 4.0]]), np.array([[0.0, 5.0]])).tolist()
    [[0.6, 0.8, 0.0, 1.0]]
    """
    n, width = len(first), first.shape[1]
    dtype = np.result_type(first, second, np.float32)
    if first.dtype == second.dtype == np.float16 and n * (width + second.shape[1]) * dtype.itemsize > _MOST_BYTES:
        dtype = np.dtype(np.float16)
    joined: NDArray[Any] = np.empty((n, width + second.shape[1]), dtype=dtype)
    for start in range(0, n, _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        for part, columns in ((first, slice(width)), (second, slice(width, None))):
            numbers = part[rows].astype(np.float64)  # whose squares hold whatever float32 does
            length = np.linalg.norm(numbers, axis=1, keepdims=True)
            joined[rows, columns] = numbers / np.where(length > 0, length, 1)
    return joined


def _with_zeros(text: NDArray[Any] | None, width: int) -> NDArray[Any] | None:
    """Return text features with ``width`` columns of zeros added, those of a second encoder, which has no text."""
    return None if text is None else np.concatenate([text, np.zeros((*text.shape[:-1], width), text.dtype)], axis=-1)


def _check_joinable(first: Features, second: Features, names: list[str]) -> None:
    """Refuse to join features of different classes, of one encoder, or of more than two.

    Raises
    ------
    InputError
        Saying what differs.
    """
    if first.second_width or second.second_width:
        raise InputError(f"{' and '.join(names)} cannot be joined: one of them is of two encoders already")
    if first.class_names != second.class_names:
        differing = [pair for pair in zip(first.class_names, second.class_names, strict=False) if pair[0] != pair[1]]
        example = "the same ones, of which one has more"
        if differing:
            example = f"{differing[0][0]!r} and {differing[0][1]!r}"
        raise InputError(
            f"the caches of {names[0]} and {names[1]} are of different classes ({len(first.class_names)} and "
            f"{len(second.class_names)}: {example}); extract one data set with both"
        )
    encoders = [(part.provenance.get("image") or {}).get("encoder") for part in (first, second)]
    same_name = names[0] == names[1] and "encoder" in first.provenance
    if encoders[0] == encoders[1] and (same_name or encoders[0] is not None):
        raise InputError(f"both caches are of {names[0]}; name those of two different encoders")
    if same_name:
        known: list[dict[str, Any]] = [encoder or {} for encoder in encoders]
        fields = [key for key in sorted({*known[0], *known[1]}) if known[0].get(key) != known[1].get(key)]
        raise InputError(
            f"both caches call their encoder {names[0]}, but it is not the same one ({', '.join(fields)} differ): "
            f"the name changed its meaning between the two; extract again with two different encoders"
        )


def _rows_of_same_images(name: str, split: Split, first: Features, second: Features, names: list[str]) -> NDArray[Any]:
    """Return the second encoder's features of a split's images, (n, d2), in its order.

    Raises
    ------
    InputError
        If it lacks some of these images, or nothing says which of them are the same.
    """
    parts = list(second.splits.values())
    if split.image_sha256 is not None and all(part.image_sha256 is not None for part in parts):
        keys: NDArray[Any] = _hash_keys(split.image_sha256)  # (n,)
        second_keys = np.concatenate([_hash_keys(part.image_sha256) for part in parts if part.image_sha256 is not None])
    else:
        identity, other = (_split_identity(part, name) for part in (first, second))
        if identity is None or identity != other:
            raise InputError(
                f"the caches of {names[0]} and {names[1]} hold no hashes of their images, and split {name!r} is not "
                f"known to be the same in both; extract again with both: cafe extract --model {names[0]},{names[1]}"
            )
        parts = [second.split(name)]
        keys, second_keys = split.sample_ids, parts[0].sample_ids
    distinct, first_places = np.unique(second_keys, return_index=True)
    nearest = np.searchsorted(distinct, keys).clip(max=len(distinct) - 1)
    lacking = np.flatnonzero(distinct[nearest] != keys)
    if len(lacking):
        raise InputError(
            f"{len(lacking):,} of {len(keys):,} images of split {name!r} are not in the cache of {names[1]}, the "
            f"first {str(split.sample_ids[lacking[0]])!r}; both must be of the same images: cafe extract --model "
            f"{names[0]},{names[1]}"
        )
    places = first_places[nearest]  # (n,), among the rows of all parts
    _check_labels_of_same_images(name, split, parts, keys, second_keys, places, names)
    starts = np.cumsum([0, *map(len, parts)])
    for part, start in zip(parts, starts[:-1], strict=True):
        if np.array_equal(places, start + np.arange(len(part))):
            return part.image_features  # mapped from the disk, as it may be
    kind = parts[0].image_features
    joined: NDArray[Any] = np.empty((len(places), kind.shape[1]), dtype=kind.dtype)  # (n, width)
    for part, start in zip(parts, starts[:-1], strict=True):
        own = (places >= start) & (places < start + len(part))
        joined[own] = part.image_features[places[own] - start]
    return joined


def _check_labels_of_same_images(
    name: str,
    split: Split,
    parts: list[Split],
    keys: NDArray[Any],
    second_keys: NDArray[Any],
    places: NDArray[np.int64],
    names: list[str],
) -> None:
    """Refuse images that have another label in the second cache, unless one of their copies there has the same.

    ``keys`` and ``second_keys`` are equal for the same images; ``places`` are their rows in the second cache.

    Raises
    ------
    InputError
        Naming the first.
    """
    labels = np.concatenate([part.labels for part in parts])
    differing = np.flatnonzero(labels[places] != split.labels)
    if not len(differing):
        return
    labelled = set(zip(second_keys.tolist(), labels.tolist(), strict=True))
    wrong = [i for i in differing.tolist() if (keys[i].item(), int(split.labels[i])) not in labelled]
    if wrong:
        raise InputError(
            f"{len(wrong):,} of {len(split):,} images of split {name!r} have another label in the cache of {names[1]} "
            f"than in that of {names[0]}, the first {str(split.sample_ids[wrong[0]])!r}; extract one data set with "
            f"both: cafe extract --model {names[0]},{names[1]}"
        )


def _hash_keys(sha256: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return each hash of (n, 32) bytes as a single value that can be compared and sorted, (n,)."""
    return np.ascontiguousarray(sha256).view("S32").reshape(-1)


def _split_identity(features: Features, name: str) -> Any:
    """Return the hash over ids, labels and sizes of a split, from the provenance; None where it has none."""
    dataset = (features.provenance.get("image") or {}).get("dataset")
    return (dataset or {}).get("splits", {}).get(name)
