"""What was asked of a suite: caches, shots, seeds, and how to choose and compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cafe.features import Features
from cafe.methods import method_names
from cafe.protocol.tasks import Task, make_task
from cafe.registry import find

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Plan:
    """What was asked of a suite.

    Attributes
    ----------
    features : tuple of Features
        One per cache, in the order given.
    shots, seeds : tuple of int
        The grid of draws.
    methods : tuple of str or None
        Keep only these; None for all.
    include : tuple of str
        Methods that a suite leaves out unless they are named here, for what they cost (``"coop"``).
    values : tuple of float
        Values of the parameter that a suite varies; empty for the suite's own.
    selection, device, dtype : str
        As in :func:`cafe.fitting.fit_method`.
    progress : callable or None
        Called as progress(done, of, label).
    notes : list of str
        What a suite had to leave out, and why; filled while it runs.
    """

    features: tuple[Features, ...]
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: tuple[int, ...] = (1, 2, 3)
    methods: tuple[str, ...] | None = None
    include: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    selection: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    progress: Progress | None = None
    notes: list[str] = field(default_factory=list)
    _tasks: dict[int, list[Task]] = field(default_factory=dict, repr=False)

    def tasks(self, features: Features) -> list[Task]:
        """Return the draws of one data set, shots by shots and seed by seed; drawn and checked once."""
        if id(features) not in self._tasks:
            self._tasks[id(features)] = [make_task(features, k, seed) for k in self.shots for seed in self.seeds]
        return self._tasks[id(features)]

    def report(self, done: int, of: int, label: str) -> None:
        """Tell the caller how far it is."""
        if self.progress is not None:
            self.progress(done, of, label)

    def kept(self, series: Sequence[Any], make: Callable[[str, str], Any]) -> list[Any]:
        """Return the series of the methods asked for; ``make`` makes one for a method that the suite does not name."""
        if self.methods is None:
            return list(series)
        for name in self.methods:
            find("methods", "METHOD", "method", name)
        kept = [one for one in series if one.method in self.methods]
        missing = set(self.methods) - {one.method for one in kept}
        # A method that the suite does not name is compared with its own defaults.
        return kept + [make(name, name) for name in method_names() if name in missing]
