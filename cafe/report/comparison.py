"""What a report needs of a comparison: no more than this, so that anything with rows can be reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cafe.report.layout import Layout


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
        """One mapping for each series and column: mean and std over seeds."""

    @property
    def pairs(self) -> Sequence[Mapping[str, Any]]:
        """Paired tests of two series each."""

    @property
    def published(self) -> Sequence[Mapping[str, Any]]:
        """Published figures beside those measured."""

    @property
    def notes(self) -> Sequence[str]:
        """What was left out, and why."""

    @property
    def layout(self) -> Layout:
        """How it wants to be shown."""
