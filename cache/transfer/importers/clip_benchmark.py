"""CLIP_benchmark's linear-probe features: ``features_{split}.pt`` and ``targets_{split}.pt`` in one folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cafe.cache.transfer.importers.arrays import read_arrays
from cafe.cache.transfer.importers.base import ExampleSplits, ForeignFeatures, Importer, ImportOptions
from cafe.errors import InputError

IMPORTER = "clip-benchmark"


class CLIPBenchmark(Importer):
    """A feature folder of LAION's CLIP_benchmark: features_train.pt, targets_train.pt, ..."""

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Return whether the folder has features and targets of the same splits."""
        return bool(_files(path))

    @classmethod
    def read(cls, path: Path, options: ImportOptions) -> ForeignFeatures:
        """Read the folder.

        Older versions of CLIP_benchmark call the test set ``val``; without a ``test``, ``val`` is imported as ``test``.
        """
        files = _files(path)
        if not files:
            raise InputError(f"{path} is no feature folder of CLIP_benchmark: features_train.pt and targets_train.pt")
        features = read_arrays(path, files, options)
        if "test" in features.splits or "val" not in features.splits or "val" in options.arrays:
            return features
        splits = {"test" if name == "val" else name: split for name, split in features.splits.items()}
        note = (
            "features_val.pt became the test split: CLIP_benchmark evaluates on it where it wrote no features_test.pt"
        )
        return replace(features, splits=splits, notes=(note,))

    @classmethod
    def write_example(cls, folder: Path, splits: ExampleSplits) -> Path:
        """Write one file of features and one of targets for each split."""
        import torch

        for name, (features, labels) in splits.items():
            torch.save(torch.from_numpy(features), folder / f"features_{name}.pt")
            torch.save(torch.from_numpy(labels), folder / f"targets_{name}.pt")
        return folder


def _files(path: Path) -> list[Path]:
    """Return the files of features and targets of each split."""
    return [
        file
        for features in sorted(path.glob("features_*.pt"))
        if (targets := features.with_name(features.name.replace("features_", "targets_", 1))).is_file()
        for file in (features, targets)
    ]
