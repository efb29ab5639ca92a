"""Makes a cache of features that another tool extracted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cafe.cache.format.arrays import StoredDtype
from cafe.cache.format.layout import UNKNOWN_SIZE
from cafe.cache.format.provenance import Provenance
from cafe.cache.format.reader import open_cache, read_provenance
from cafe.cache.format.writer import write_cache
from cafe.cache.transfer.importers.base import Found, Importer, Wishes
from cafe.cache.transfer.importing_labels import resolve_classes
from cafe.cache.transfer.importing_text import shaped_text
from cafe.cache.transfer.similar import drop_similar
from cafe.errors import CacheError, InputError
from cafe.features import Features, Split
from cafe.registry import entries, find

_ROOM, _CONSTANT = "cache.transfer.importers", "IMPORTER"
# Most particular first; plain arrays accept nearly everything.
_ORDER = ("clip-benchmark", "tip-adapter", "coop", "clip-retrieval")
# A unit vector in bfloat16 is off by at most half a unit in the eighth bit.
_UNIT = 2.0**-8


@dataclass(frozen=True)
class ImportSummary:
    """What an import made.

    Attributes
    ----------
    path : Path
        The cache.
    layout : str
        Name of the importer that read it.
    features : Features
        What the cache holds.
    notes : tuple of str
        What was decided unasked, for the user.
    """

    path: Path
    layout: str
    features: Features
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
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
    """Return the names of the layouts that can be imported, the order in which ``auto`` tries them."""
    known = entries(_ROOM, _CONSTANT)
    return [*(name for name in _ORDER if name in known), *(name for name in known if name not in _ORDER)]


def import_features(
    source: Path | str,
    out: Path | str,
    *,
    layout: str = "auto",
    dataset: str | None = None,
    encoder: str = "imported",
    wishes: Wishes | None = None,
    class_names: Path | None = None,
    text_features: Path | None = None,
    logit_scale: float = 100.0,
    similar: float | None = None,
    force: bool = False,
) -> ImportSummary:
    """Read foreign features and write their cache, in the precision that they have.

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
    wishes : Wishes or None
        Which arrays make up which split, where that is not told by their names.
    class_names, text_features : path or None
        Files with what the source lacks; text is (c, d) or (m, c, d).
    logit_scale : float, default 100.0
        The encoder's own; 100 is OpenAI's.
    similar : float or None
        Drop val and test rows whose cosine with a training row is at least this.
    force : bool, default False
        Replace what stands at ``out``.

    Returns
    -------
    ImportSummary

    Raises
    ------
    InputError
        If the source is of no known layout, is damaged, or does not fit together; or ``out`` is taken.
    """
    path, target = Path(source).expanduser(), Path(out)
    if not path.exists():
        raise InputError(f"there is no file or folder {str(source)!r}")
    name = _chosen_layout(path, layout)
    importer: type[Importer] = find(_ROOM, _CONSTANT, "format", name).load()
    found = importer.read(path, wishes or Wishes())
    if not found.splits:
        raise InputError(f"{path} holds no split that could be imported")
    names, labels, notes = resolve_classes(found, class_names)
    text, text_files = shaped_text(found, text_features, len(names))
    splits = {
        split: Split(one.image_features, labels[split], _ids(one.sample_ids, split, len(labels[split])))
        for split, one in found.splits.items()
    }
    if similar is not None:
        splits, dropped = drop_similar(splits, similar)
        notes.append(f"dropped rows with a cosine of at least {similar} to a training row: {dropped}")
    imported = _imported(name, found, text_files, similar)
    stored = _stored_dtype([one.image_features for one in splits.values()], text)
    provenance = _provenance(dataset or path.stem, encoder, splits, names, text is not None, imported, stored)
    _refuse_other(target, provenance, force)
    features = Features(splits, names, text, logit_scale=logit_scale)
    write_cache(target, features, provenance, stored_dtype=stored, normalised=_all_unit(splits))
    from cafe.cache.format.reader import load_features

    return ImportSummary(target, name, load_features(target), (*found.notes, *notes))


def _chosen_layout(path: Path, layout: str) -> str:
    if layout != "auto":
        return layout
    known = entries(_ROOM, _CONSTANT)
    for name in layouts():
        if known[name].load().accepts(path):
            return name
    raise InputError(
        f"{path} is of no layout that can be imported; known are {', '.join(layouts())}; see docs/encoders.md"
    )


def _ids(given: Any, split: str, n: int) -> Any:
    """Take the ids of the file if they tell samples apart; else number the rows."""
    if given is not None and len(set(given.tolist())) == n == len(given):
        return given
    return np.array([f"{split}/{row}" for row in range(n)], dtype=np.str_)


def _imported(name: str, found: Found, text_files: Sequence[Path], similar: float | None) -> dict[str, Any]:
    files = [{"name": file.name, "sha256": _sha256(file)} for file in dict.fromkeys((*found.files, *text_files))]
    sources = {split: one.source for split, one in found.splits.items()}
    return {"format": name, "files": files, "splits": sources, "dropped_similar": similar}


def _provenance(
    dataset: str,
    encoder: str,
    splits: Mapping[str, Split],
    class_names: Sequence[str],
    has_text: bool,
    imported: Mapping[str, Any],
    stored: str,
) -> Provenance:
    # The weights behind foreign features are not known: the name is all there is, and it says who gave it.
    unknown = {"named_by_user": encoder, "weights_sha256": None}
    image = {
        "dataset": {"name": dataset, "split_origin": "imported", "splits": {k: _hashed(v) for k, v in splits.items()}},
        "encoder": unknown,
        "imported": dict(imported),
        "splits": list(splits),
        "stored_dtype": stored,
        "views": None,
    }
    text = {
        "class_names": list(class_names),
        "templates": [],
        "prompts": None,
        "encoder": unknown,
        "imported": {"files": imported["files"]},
        "stored_dtype": stored,
    }
    return Provenance(dataset, encoder, image, text if has_text else None, recorded={"image": {}, "text": {}})


def _hashed(split: Split) -> dict[str, Any]:
    digest = hashlib.sha256()
    for sample_id, label in zip(split.sample_ids, split.labels, strict=True):
        digest.update(f"{sample_id}\0{label}\0{UNKNOWN_SIZE}\n".encode("utf-8", "surrogateescape"))
    return {"n": len(split), "sha256": digest.hexdigest()}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _stored_dtype(images: Sequence[Any], text: Any) -> StoredDtype:
    """Keep float16 where all is float16; otherwise float32, so that nothing is rounded."""
    dtypes = {array.dtype for array in (*images, *([] if text is None else [text]))}
    return "float16" if dtypes == {np.dtype(np.float16)} else "float32"


def _all_unit(splits: Mapping[str, Split]) -> bool:
    lengths = (np.linalg.norm(np.asarray(one.image_features, dtype=np.float32), axis=1) for one in splits.values())
    return all(bool(np.all(np.abs(length - 1) < _UNIT)) for length in lengths)


def _refuse_other(target: Path, provenance: Provenance, force: bool) -> None:
    if force or not target.exists():
        return
    with open_cache(target) as file:
        there = read_provenance(file)["fingerprint"]
    if there != provenance.fingerprint:
        raise CacheError(f"{target} holds other features; name another file with --out, or replace it with --force")
