"""What a report needs of a comparison: no more than this, so that anything with rows can be reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class ComparisonLike(Protocol):
    """What a report needs of a comparison."""

    @property
    def suite(self) -> str:
        """Name of the suite."""

    @property
    def title(self) -> str:
        """One line for people."""

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """One mapping for each fit."""

    @property
    def summary(self) -> Sequence[Mapping[str, Any]]:
        """One mapping for each series and number of shots: mean and std over seeds."""
