"""What an importer is, and what it hands over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Wishes:
    """What the user said about where things are.

    Attributes
    ----------
    keys : mapping of str to tuple of str
        By split, the arrays that make it up; splits that are not named are found by the arrays' names.
    split : str
        Name of the split, for layouts that have one without a name.
    label_column : str or None
        Column of labels, for layouts with a table.
    """

    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split: str = "train"
    label_column: str | None = None


@dataclass(frozen=True)
class FoundSplit:
    """One split as a foreign file has it.

    Attributes
    ----------
    image_features : ndarray of shape (n, d)
        In the dtype of the file.
    labels : ndarray of shape (n,)
        Integers, or texts: class names.
    sample_ids : ndarray of shape (n,), or None
        Where the file has any.
    source : str
        Names of the arrays it came from.
    """

    image_features: NDArray[Any]
    labels: NDArray[Any]
    sample_ids: NDArray[Any] | None
    source: str


@dataclass(frozen=True)
class Found:
    """Everything that an importer found.

    Attributes
    ----------
    splits : dict of str to FoundSplit
        By name.
    files : tuple of Path
        The files that were read, for provenance.
    class_names : tuple of str or None
        In label order.
    text_features : ndarray of shape (c, d) or (m, c, d), or None
        Where the file has any.
    notes : tuple of str
        What was decided without being asked, for the user.
    """

    splits: dict[str, FoundSplit]
    files: tuple[Path, ...]
    class_names: tuple[str, ...] | None = None
    text_features: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()


class Importer(ABC):
    """A reader of one layout; ``--format`` takes its name, and ``auto`` the first that accepts."""

    @classmethod
    @abstractmethod
    def accepts(cls, path: Path) -> bool:
        """Say whether this looks like the layout, from names alone."""

    @classmethod
    @abstractmethod
    def read(cls, path: Path, wishes: Wishes) -> Found:
        """Read it.

        Raises
        ------
        InputError
            If it is not of this layout, or a file is damaged; the message says what is expected where.
        """
