"""Makes a cache of features that another tool extracted.

An importer reads the foreign files. The rest is the same for all importers: labels become rows of class names, text
features get their shape, near copies of training rows are dropped on request, and the origin is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.format.arrays import StoredDtype
from cafe.cache.format.layout import UNKNOWN_SIZE
from cafe.cache.format.provenance import Provenance
from cafe.cache.format.reader import open_cache, read_features, read_provenance
from cafe.cache.format.writer import write_cache
from cafe.cache.transfer.array_files import arrays_of_file
from cafe.cache.transfer.importers.base import ForeignFeatures, ForeignSplit, Importer, ImportOptions
from cafe.data.base import sample_identity
from cafe.errors import CacheError, InputError
from cafe.features import Features, Split
from cafe.files import sha256_of_file
from cafe.foreign import check_regular, reading
from cafe.prompts import read_class_names
from cafe.registry import entries, find

_FOLDER, _CONSTANT = "cache.transfer.importers", "IMPORTER"
# A unit vector in bfloat16 is off by at most half a unit in the eighth bit.
_UNIT_TOLERANCE = 2.0**-8
# Labels without class names may always count this many classes, which includes ImageNet-21k.
_MAX_UNNAMED_CLASSES = 100_000
_MAX_EXACT_FLOAT = 2.0**53  # above this, some whole numbers are no floats
_ROWS_AT_ONCE = 4096  # 4096 x 16,000 cosines in float32 are 260 MB


@dataclass(frozen=True)
class ImportSummary:
    """The cache that an import made.

    Attributes
    ----------
    path : Path
        The cache.
    layout : str
        Name of the importer that read it.
    features : Features
        The features in the cache.
    notes : tuple of str
        Decisions that the user did not ask for.
    """

    path: Path
    layout: str
    features: Features
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        features = self.features
        return {
            "path": str(self.path),
            "format": self.layout,
            "dataset": features.provenance["dataset"],
            "encoder": features.provenance["encoder"],
            "fingerprint": features.provenance["fingerprint"],
            "splits": {name: len(split) for name, split in features.splits.items()},
            "dim": next(iter(features.splits.values())).image_features.shape[1],
            "n_classes": len(features.class_names),
            "has_text": features.text_features is not None,
            "normalised": features.provenance["normalised"],
            "notes": list(self.notes),
        }


def layouts() -> list[str]:
    """Return the names of the layouts that can be imported, in the order in which ``auto`` tries them."""
    known = entries(_FOLDER, _CONSTANT)
    return sorted(known, key=lambda name: (known[name].load().accepts_anything, name))


def import_features(
    source: Path | str,
    out: Path | str,
    *,
    layout: str = "auto",
    dataset: str | None = None,
    encoder: str = "imported",
    options: ImportOptions | None = None,
    class_names: Path | None = None,
    text_features: Path | None = None,
    logit_scale: float = 100.0,
    similar: float | None = None,
    force: bool = False,
) -> ImportSummary:
    """Read foreign features and write a cache of them in their own precision.

    Parameters
    ----------
    source, out : path
        A file or folder, and the cache to make.
    layout : str, default "auto"
        A name of :func:`layouts`, or ``"auto"``: the first that accepts.
    dataset : str or None
        Name of the data set; None is the source's own name.
    encoder : str, default "imported"
        Name of the encoder, as the user knows it; it cannot be checked.
    options : ImportOptions or None
        Which arrays make up which split, where their names do not tell.
    class_names, text_features : path or None
        Files with what the source lacks; text is (c, d) or (m, c, d).
    logit_scale : float, default 100.0
        The encoder's own; 100 is OpenAI's.
    similar : float or None
        Drop val and test rows whose cosine with a training row is at least this.
    force : bool, default False
        Replace an existing file ``out``.

    Returns
    -------
    ImportSummary

    Raises
    ------
    InputError
        If the source is of no known layout, is damaged, or does not fit together; or ``out`` is taken.
    """
    path, target = Path(source).expanduser(), Path(out)
    if not path.is_dir():
        check_regular(path, "file or folder")
    name, notes = _chosen_layout(path, layout)
    importer: type[Importer] = find(_FOLDER, _CONSTANT, "format", name).load()
    with reading(path, f"features of the format {name}"):
        foreign = importer.read(path, options or ImportOptions())
    if not foreign.splits:
        raise InputError(f"{path} holds no split that could be imported")
    notes += foreign.notes
    names, labels, label_notes = resolve_classes(foreign, class_names)
    notes += label_notes
    text = shaped_text(foreign, text_features, len(names))
    splits = {
        key: Split(split.image_features, labels[key], _sample_ids(split.sample_ids, key, len(labels[key])))
        for key, split in foreign.splits.items()
    }
    if similar is not None:
        splits, dropped = drop_similar(splits, similar)
        notes.append(f"dropped rows with a cosine of at least {similar} to a training row: {dropped}")
    origin = _origin(name, foreign, text_features, similar)
    stored = _stored_dtype([split.image_features for split in splits.values()], text)
    provenance = _provenance(dataset or path.stem, encoder, splits, names, text is not None, origin, stored)
    _refuse_other_features(target, provenance, force)
    features = Features(splits, names, text, logit_scale=logit_scale)
    write_cache(target, features, provenance, stored_dtype=stored, normalised=_all_unit(splits))
    return ImportSummary(target, name, read_features(target), tuple(notes))


def _chosen_layout(path: Path, layout: str) -> tuple[str, list[str]]:
    """Return the name of the layout, and a note if ``auto`` had a choice."""
    if layout != "auto":
        return layout, []
    known = entries(_FOLDER, _CONSTANT)
    fitting = [name for name in layouts() if known[name].load().accepts(path)]
    if not fitting:
        raise InputError(
            f"{path} is of no layout that can be imported; known are {', '.join(layouts())}; see docs/encoders.md"
        )
    first, *other_layouts = (name for name in fitting if not known[name].load().accepts_anything or name == fitting[0])
    return first, [
        f"read as {first}; it could be {', '.join(other_layouts)} too (choose with --format)"
    ] if other_layouts else []


def _sample_ids(given: NDArray[Any] | None, split: str, n: int) -> NDArray[np.str_]:
    """Return the ids of the file if they are unique; else numbers of the rows."""
    if given is not None and len(set(given.tolist())) == n == len(given):
        return given
    return np.array([f"{split}/{row}" for row in range(n)], dtype=np.str_)


# Labels and class names


def resolve_classes(
    foreign: ForeignFeatures, names_file: Path | None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]], list[str]]:
    """Turn labels into rows of class names.

    Labels that are texts are class names; integers are rows of the names that the file has, or of those in
    ``names_file``; without any, classes are called by their numbers.

    Returns
    -------
    class_names : tuple of str
    labels : dict of str to ndarray of shape (n,), int64
        By split.
    notes : list of str

    Raises
    ------
    InputError
        If labels and names do not fit together, or a split has not one label for each row.
    """
    for name, split in foreign.splits.items():
        _check_split(name, split)
    widths = {name: split.image_features.shape[1] for name, split in foreign.splits.items()}
    if len(set(widths.values())) > 1:
        shown = ", ".join(f"{name} ({foreign.splits[name].source}) {width}" for name, width in widths.items())
        raise InputError(f"the splits have features of different widths, so of different encoders: {shown}")
    labels_of = {name: _plain_labels(split.labels, name) for name, split in foreign.splits.items()}
    notes: list[str] = []
    if any(labels.dtype.kind in "US" for labels in labels_of.values()):
        names = foreign.class_names or tuple(sorted({str(label) for labels in labels_of.values() for label in labels}))
        rows = {name: _rows_of_names(labels, names, name) for name, labels in labels_of.items()}
    else:
        rows = {name: _whole_numbers(labels, name) for name, labels in labels_of.items()}
        if foreign.class_names is None:
            _refuse_far_labels(rows, foreign)
        names = foreign.class_names or tuple(str(i) for i in range(_n_classes(rows, foreign)))
        if foreign.class_names is None and names_file is None:
            notes.append(
                f"no class names were found; the {len(names)} classes are called by number (--class-names FILE)"
            )
    if names_file is not None:
        names = read_class_names(names_file, names)
    for name, labels in rows.items():
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
            hint = "; they seem to begin at 1: subtract 1" if labels.min() == 1 and labels.max() == len(names) else ""
            raise InputError(
                f"labels of split {name!r} go from {labels.min()} to {labels.max()}, but there are {len(names)} class "
                f"names, for 0 to {len(names) - 1}{hint}"
            )
    return names, rows, notes


def _check_split(name: str, split: ForeignSplit) -> None:
    """Raise an error for features or labels of a wrong type, or of different lengths."""
    place, features, labels = f"split {name!r} ({split.source})", split.image_features, split.labels
    if features.ndim != 2 or labels.ndim != 1 or len(labels) != len(features):
        raise InputError(
            f"{place} needs features (n, d) and one label for each, got {features.shape} and {labels.shape}"
        )
    if features.dtype.kind not in "fiu":
        raise InputError(f"{place}: features must be numbers, but are {features.dtype}")
    if not features.shape[0] or not features.shape[1]:
        raise InputError(f"{place} is empty: its features are {features.shape}")
    for start in range(0, len(features), _ROWS_AT_ONCE):
        with np.errstate(over="ignore"):
            rows = np.asarray(features[start : start + _ROWS_AT_ONCE]).astype(np.float32)
        if not (usable := np.isfinite(rows).all(axis=1)).all():
            raise InputError(
                f"{place}: row {start + int(usable.argmin())} of the features holds NaN, infinity, or numbers that "
                f"float32 cannot hold"
            )


def _plain_labels(labels: NDArray[Any], split: str) -> NDArray[Any]:
    """Return labels as texts or numbers: bytes are UTF-8, objects must all be texts."""
    if labels.dtype.kind == "S":
        labels = labels.astype(object)
    if labels.dtype.kind == "O":
        texts = [label.decode("utf-8", "replace") if isinstance(label, bytes) else label for label in labels.tolist()]
        if all(isinstance(text, str) for text in texts):
            return np.array(texts, dtype=np.str_)
    if labels.dtype.kind not in "fiubU":
        raise InputError(f"labels of split {split!r} must be whole numbers or class names, but are {labels.dtype}")
    return labels


def _refuse_far_labels(rows: Mapping[str, NDArray[np.int64]], foreign: ForeignFeatures) -> None:
    """Raise an error, before classes are named, if the highest label is far above the number of rows."""
    highest = max(int(labels.max()) for labels in rows.values())
    text = foreign.text_features
    known = text.shape[-2] if text is not None and text.ndim >= 2 else 0
    n = sum(len(labels) for labels in rows.values())
    if highest >= max(_MAX_UNNAMED_CLASSES, 2 * n, known):
        raise InputError(
            f"the highest label is {highest:,}, but there are {n:,} rows; labels without class names count the classes "
            f"from 0, so this would be {highest + 1:,} classes: number the labels anew, or give texts"
        )


def _n_classes(rows: Mapping[str, NDArray[np.int64]], foreign: ForeignFeatures) -> int:
    """Return the number of classes that labels without names count, or that text features have."""
    highest = max(int(labels.max()) for labels in rows.values() if len(labels))
    text = foreign.text_features
    return max(highest + 1, text.shape[-2] if text is not None and text.ndim >= 2 else 0)


def _rows_of_names(labels: NDArray[Any], names: tuple[str, ...], split: str) -> NDArray[np.int64]:
    """Return the position of each label among the class names."""
    if len(set(names)) < len(names):
        raise InputError(f"class names must differ: {next(n for n in names if names.count(n) > 1)!r} is given twice")
    row = {name: i for i, name in enumerate(names)}
    unknown = sorted({str(label) for label in labels} - row.keys())
    if unknown:
        raise InputError(f"split {split!r} has labels that are no class names: {', '.join(map(repr, unknown[:5]))}")
    return np.array([row[str(label)] for label in labels], dtype=np.int64)


def _whole_numbers(labels: NDArray[Any], split: str) -> NDArray[np.int64]:
    """Return labels as int64, after checking that each is a whole number."""
    with np.errstate(invalid="ignore"):
        whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels) or (labels.dtype.kind == "f" and np.abs(labels).max() > _MAX_EXACT_FLOAT):
        raise InputError(f"labels of split {split!r} must be whole numbers or class names")
    return whole


# Text features


def shaped_text(foreign: ForeignFeatures, text_file: Path | None, n_classes: int) -> NDArray[Any] | None:
    """Return text features as (m, c, d), those of ``text_file`` if it is given.

    A matrix is (c, d), one row per class. It is transposed if only (d, c) fits, as for Tip-Adapter's ``clip_weights``.

    Raises
    ------
    InputError
        If their shape fits neither classes nor image features.
    """
    text = foreign.text_features if text_file is None else _text_of_file(text_file)
    if text is None:
        return None
    width = next(iter(foreign.splits.values())).image_features.shape[1]
    with np.errstate(over="ignore"):
        if text.dtype.kind not in "fiu" or not np.isfinite(text.astype(np.float32)).all():
            raise InputError(f"text features must be finite numbers that float32 can hold; got {text.dtype}")
    given_shape = text.shape
    if text.ndim == 2 and given_shape != (n_classes, width) and given_shape == (width, n_classes):
        text = np.ascontiguousarray(text.T)  # (c, d)
    if text.ndim == 2:
        text = text[None]  # (1, c, d)
    if text.ndim != 3 or text.shape[1:] != (n_classes, width):
        raise InputError(
            f"text features must be ({n_classes} classes, {width} wide), or (templates, {n_classes}, {width}); "
            f"got {given_shape}"
        )
    return text


def _text_of_file(path: Path) -> NDArray[Any]:
    """Read the one array of text features of a file."""
    if not path.is_file():
        raise InputError(f"--text-features takes a file; there is none at {str(path)!r}")
    arrays = arrays_of_file(path)
    names = [name for name in arrays if "text" in name.lower()] or list(arrays)
    if len(names) != 1:
        raise InputError(f"{path} holds several arrays ({', '.join(names)}); one with text in its name is needed")
    return np.asarray(arrays[names[0]]())


# Near copies of training rows: other views of one photograph


def drop_similar(splits: Mapping[str, Split], least: float) -> tuple[dict[str, Split], dict[str, int]]:
    """Drop rows of every other split whose best cosine with a training row is at least ``least``.

    Parameters
    ----------
    splits : mapping of str to Split
        With ``train``.
    least : float
        Between 0 and 1.

    Returns
    -------
    dict of str to Split, dict of str to int
        The remaining rows, and the number of rows that each split lost.

    Raises
    ------
    InputError
        If there is no train split, nothing of a split stays, or ``least`` is out of range.
    """
    if not 0 < least <= 1:
        raise InputError(f"the cosine from which rows are dropped must be above 0 and at most 1, got {least}")
    if "train" not in splits:
        raise InputError(
            f"dropping rows that resemble training rows needs a train split; there are {', '.join(splits)}"
        )
    train = _unit_rows(splits["train"])
    kept, dropped = {}, {}
    for name, split in splits.items():
        keep = (
            np.arange(len(split)) if name == "train" else np.flatnonzero(_best_cosine(_unit_rows(split), train) < least)
        )
        if len(keep) == 0 < len(split):
            raise InputError(f"every row of split {name!r} has a cosine of at least {least} with a training row")
        kept[name] = split.take(keep)
        if name != "train":
            dropped[name] = len(split) - len(keep)
    return kept, dropped


def _best_cosine(rows: NDArray[np.float32], train: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest cosine of each row with any training row."""
    best = [(rows[start : start + _ROWS_AT_ONCE] @ train.T).max(axis=1) for start in range(0, len(rows), _ROWS_AT_ONCE)]
    return np.concatenate(best) if best else np.empty(0, dtype=np.float32)


def _unit_rows(split: Split) -> NDArray[np.float32]:
    """Return the image features with unit length, in float32."""
    rows = np.asarray(split.image_features, dtype=np.float32)
    unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


# Record of the origin


def _origin(layout: str, foreign: ForeignFeatures, text_file: Path | None, similar: float | None) -> dict[str, Any]:
    """Describe the files that the features came from."""
    paths = dict.fromkeys((*foreign.files, *([] if text_file is None else [text_file])))
    files = [{"name": path.name, "sha256": sha256_of_file(path)} for path in paths]
    sources = {name: split.source for name, split in foreign.splits.items()}
    return {"format": layout, "files": files, "splits": sources, "dropped_similar": similar}


def _provenance(
    dataset: str,
    encoder: str,
    splits: Mapping[str, Split],
    class_names: Sequence[str],
    has_text: bool,
    origin: Mapping[str, Any],
    stored: StoredDtype,
) -> Provenance:
    """Describe the origin of imported features in the fields that every cache has."""
    # The weights behind foreign features are not known: only the name is recorded, and that the user gave it.
    unknown = {"named_by_user": encoder, "weights_sha256": None}
    identities = {
        name: sample_identity(split.sample_ids.tolist(), split.labels, np.full(len(split), UNKNOWN_SIZE))
        for name, split in splits.items()
    }
    image = {
        "dataset": {
            "name": dataset,
            "split_origin": "imported",
            "splits": identities,
        },
        "encoder": unknown,
        "imported": dict(origin),
        "splits": list(splits),
        "stored_dtype": stored,
        "views": None,
    }
    text = {
        "class_names": list(class_names),
        "templates": [],
        "prompts": None,
        "encoder": unknown,
        "imported": {"files": origin["files"]},
        "stored_dtype": stored,
    }
    return Provenance(dataset, encoder, image, text if has_text else None, recorded={"image": {}, "text": {}})


def _stored_dtype(images: Sequence[NDArray[Any]], text: NDArray[Any] | None) -> StoredDtype:
    """Keep float16 where all is float16; otherwise float32, so that nothing is rounded."""
    dtypes = {array.dtype for array in (*images, *([] if text is None else [text]))}
    return "float16" if dtypes == {np.dtype(np.float16)} else "float32"


def _all_unit(splits: Mapping[str, Split]) -> bool:
    """Return whether all image features have unit length."""
    lengths = (np.linalg.norm(np.asarray(split.image_features, dtype=np.float32), axis=1) for split in splits.values())
    return all(bool(np.all(np.abs(length - 1) < _UNIT_TOLERANCE)) for length in lengths)


def _refuse_other_features(target: Path, provenance: Provenance, force: bool) -> None:
    """Raise an error if the target holds a cache of other features."""
    if force or not target.exists():
        return
    with open_cache(target) as file:
        present = read_provenance(file)["fingerprint"]
    if present != provenance.fingerprint:
        raise CacheError(f"{target} holds other features; name another file with --out, or replace it with --force")
