"""Base class of importers, and the features that they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

# By split, features (n, d) and labels (n,).
ExampleSplits = Mapping[str, tuple[NDArray[np.float32], NDArray[np.int64]]]


@dataclass(frozen=True)
class ImportOptions:
    """The user's options on where features and labels are.

    Attributes
    ----------
    arrays : mapping of str to tuple of str
        By split, names of the arrays that make it up; splits that are not named are recognised by the arrays' names.
    split : str
        Name of the split, for layouts that have one without a name.
    label_column : str or None
        Column of labels, for layouts with a table.
    """

    arrays: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split: str = "train"
    label_column: str | None = None


@dataclass(frozen=True)
class ForeignSplit:
    """One split as a foreign file has it.

    Attributes
    ----------
    image_features : ndarray of shape (n, d)
        In the dtype of the file.
    labels : ndarray of shape (n,)
        Integers, or texts: class names.
    sample_ids : ndarray of shape (n,), or None
        None if the file has none.
    source : str
        Names of the arrays it came from.
    """

    image_features: NDArray[Any]
    labels: NDArray[Any]
    sample_ids: NDArray[Any] | None
    source: str


@dataclass(frozen=True)
class ForeignFeatures:
    """Everything that an importer read.

    Attributes
    ----------
    splits : dict of str to ForeignSplit
        By name.
    files : tuple of Path
        The files that were read, for provenance.
    class_names : tuple of str or None
        In label order.
    text_features : ndarray of shape (c, d) or (m, c, d), or None
        None if the files have none.
    notes : tuple of str
        Decisions that the user did not ask for.
    """

    splits: dict[str, ForeignSplit]
    files: tuple[Path, ...]
    class_names: tuple[str, ...] | None = None
    text_features: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()


class Importer(ABC):
    """A reader of one layout; ``--format`` takes its name, and ``auto`` the first that accepts.

    A new one is one file in this folder, which says its name (``IMPORTER = "name"``) and defines one such class; the
    contract test tries everything on its :meth:`write_example`.

    Attributes
    ----------
    accepts_anything : bool, default False
        Whether the importer accepts nearly every file, so that ``auto`` asks it last.
    """

    accepts_anything: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def accepts(cls, path: Path) -> bool:
        """Return whether a path looks like this layout, by the names of its files."""

    @classmethod
    @abstractmethod
    def read(cls, path: Path, options: ImportOptions) -> ForeignFeatures:
        """Read features and labels.

        Raises
        ------
        InputError
            If the path is not of this layout, or a file is damaged; the message says what is expected where.
        """

    @classmethod
    @abstractmethod
    def write_example(cls, folder: Path, splits: ExampleSplits) -> Path:
        """Write features as the foreign tool does: the tiny example that the contract test imports again.

        Parameters
        ----------
        folder : Path
            An empty folder.
        splits : mapping of str to (ndarray of shape (n, d), ndarray of shape (n,))
            Features and labels of ``train``, and perhaps of ``val`` and ``test``. The features are of
            unit length and exact in float16; every class has as many rows of ``train`` as any other.

        Returns
        -------
        Path
            What :meth:`read` takes: the folder, or a file in it.
        """
