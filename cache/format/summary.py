"""What a cache says about itself, from its attributes and shapes alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py

from cafe.cache.format import spec
from cafe.cache.format.opening import open_cache, text_attribute
from cafe.errors import CacheError


@dataclass(frozen=True)
class CacheSummary:
    """One line of ``cafe cache ls``.

    Attributes
    ----------
    path : Path
        The file.
    bytes : int
        Its size on disk.
    damaged : str or None
        What is wrong with it; then everything below is empty.
    dataset, encoder, fingerprint, created, stored_dtype : str
        As recorded; ``created`` is UTC, ISO 8601.
    splits : dict of str to int
        Samples of each split, in order.
    dim, n_classes, n_templates : int
        Feature width, classes, and prompts per class; ``n_templates`` is 0 without text features.
    """

    path: Path
    bytes: int
    damaged: str | None = None
    dataset: str = ""
    encoder: str = ""
    fingerprint: str = ""
    created: str = ""
    stored_dtype: str = ""
    splits: dict[str, int] = field(default_factory=dict)
    dim: int = 0
    n_classes: int = 0
    n_templates: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "path": str(self.path)}


def summarise(path: Path | str) -> CacheSummary:
    """Read what a cache says about itself, without its arrays.

    Raises
    ------
    CacheError
        If the file is missing, truncated, damaged, not a cache, or of a newer format version.
    """
    path = Path(path)
    with open_cache(path) as file:
        names = [text_attribute(name) for name in file.attrs[spec.SPLITS]]
        features = {name: file[spec.SPLITS][name][spec.IMAGE_FEATURES] for name in names}
        first: h5py.Dataset | None = next(iter(features.values()), None)
        return CacheSummary(
            path=path,
            bytes=path.stat().st_size,
            **{key: text_attribute(file.attrs[key]) for key in ("dataset", "encoder", "fingerprint", "created")},
            stored_dtype="" if first is None else first.dtype.name,
            splits={name: array.shape[0] for name, array in features.items()},
            dim=0 if first is None else first.shape[1],
            n_classes=len(file[spec.CLASS_NAMES]),
            n_templates=file[spec.TEXT_FEATURES].shape[0] if spec.TEXT_FEATURES in file else 0,
        )


def list_caches(folder: Path | str) -> list[CacheSummary]:
    """List the caches of a folder, newest first; damaged files last, each saying what is wrong.

    Parameters
    ----------
    folder : path
        The folder of all caches; it need not exist.

    Returns
    -------
    list of CacheSummary
        One for every ``.h5`` file that does not begin with a dot.
    """
    found = []
    for path in sorted(Path(folder).glob(f"[!.]*{spec.SUFFIX}")):
        try:
            found.append(summarise(path))
        except CacheError as error:
            # A file that was removed meanwhile is not damaged, it is gone.
            if path.is_file():
                found.append(CacheSummary(path, path.stat().st_size, damaged=str(error)))
    return sorted(found, key=lambda summary: summary.created, reverse=True)
