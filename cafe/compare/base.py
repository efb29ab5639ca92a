"""What a suite is: a title and a list of series, each a method with its parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cafe.features import Features


@dataclass(frozen=True)
class Series:
    """One line of a figure, one row of a table.

    Attributes
    ----------
    label : str
        As it stands in the legend.
    method : str
        Name of the method.
    parameters : mapping
        Its keyword parameters; ``"auto"`` is resolved by the selection policy.
    """

    label: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Suite(ABC):
    """A question asked of every method alike; the file that defines one sets ``SUITE``.

    Attributes
    ----------
    title : str
        Of the table and the figure.
    """

    title: str

    @abstractmethod
    def series(self, features: Features) -> Sequence[Series]:
        """Return what is compared on this data set."""
