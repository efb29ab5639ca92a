"""CLIP_benchmark's linear-probe features: ``features_{split}.pt`` and ``targets_{split}.pt`` in one folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cafe.cache.transfer.importers.arrays import found_in
from cafe.cache.transfer.importers.base import Found, Importer, Wishes
from cafe.errors import InputError

IMPORTER = "clip-benchmark"


class CLIPBenchmark(Importer):
    """A feature folder of LAION's CLIP_benchmark: features_train.pt, targets_train.pt, ..."""

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Say whether the folder has features and targets of the same splits."""
        return bool(_files(path))

    @classmethod
    def read(cls, path: Path, wishes: Wishes) -> Found:
        """Read the folder.

        Older versions call the test set ``val``: where there is no ``test``, that is what it becomes.
        """
        files = _files(path)
        if not files:
            raise InputError(f"{path} is no feature folder of CLIP_benchmark: features_train.pt and targets_train.pt")
        found = found_in(path, files, wishes)
        if "test" in found.splits or "val" not in found.splits or "val" in wishes.keys:
            return found
        splits = {"test" if name == "val" else name: split for name, split in found.splits.items()}
        note = (
            "features_val.pt became the test split: CLIP_benchmark evaluates on it where it wrote no features_test.pt"
        )
        return replace(found, splits=splits, notes=(note,))


def _files(path: Path) -> list[Path]:
    return [
        file
        for features in sorted(path.glob("features_*.pt"))
        if (targets := features.with_name(features.name.replace("features_", "targets_", 1))).is_file()
        for file in (features, targets)
    ]
