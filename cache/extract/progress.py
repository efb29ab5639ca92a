"""What extraction reports: progress while it runs, seconds by stage, and a summary at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

Action = Literal["extracted", "text encoded again", "already there"]


@dataclass(frozen=True)
class ExtractionProgress:
    """How far extraction is; given to the ``progress`` callback after every batch.

    Attributes
    ----------
    stage : str
        ``"images"``, ``"text"`` or ``"write"``.
    split : str
        The split being read; empty in the other stages.
    done, total : int
        Images of all splits, or templates, or files.
    images_per_second : float
        Since extraction began; 0 in the other stages.
    unreadable : int
        Images so far that could not be decoded.
    kept : int
        Images among ``done`` that had been encoded when this run began.
    """

    stage: Literal["images", "text", "write"]
    split: str
    done: int
    total: int
    images_per_second: float = 0.0
    unreadable: int = 0
    kept: int = 0


class ExtractionInterrupted(KeyboardInterrupt):
    """Ctrl-C or a signal in the midst of an extraction; its text says what is kept."""


@dataclass(frozen=True)
class ExtractionSummary:
    """What extraction did.

    Attributes
    ----------
    path : Path
        The cache.
    action : str
        ``"extracted"``, ``"text encoded again"`` (images were copied) or ``"already there"`` (nothing was encoded).
    dataset, encoder, fingerprint : str
        As recorded in the cache.
    splits : dict of str to int
        Rows of each split.
    dim, n_classes, n_templates : int
        Feature width, classes, templates.
    bytes : int
        Size of the file.
    unreadable : tuple of dict
        Images without a row: ``split``, ``sample_id``, ``reason``.
    seconds : dict of str to float
        The three clocks of this run: ``read`` (waiting for decoded images), ``encode``, ``write`` (waiting for
        the disk).
    images_per_second : float
        Images of this run over its wall seconds from the first image to the last; 0 if none were encoded.
    encoded : int
        Images that this run encoded; those that could not be read are not among them.
    kept : int
        Images of the cache that this run did not encode: they are those of a run that was cut off, of another process,
        or of a cache at hand that has the same bytes.
    bottleneck : str
        The clock that ran longest: ``"read"``, ``"encode"`` or ``"write"``; empty if nothing was encoded.
    workers : int
        Decoding processes; 0 is threads of this one.
    batch_size : int
        Images of one encoding batch; 0 if none were encoded.
    notes : tuple of str
        Warnings for the user, one sentence each.
    contents : dict or None
        What lies in the source of the data set: :meth:`cafe.data.contents.Contents.to_json`.
    """

    path: Path
    action: Action
    dataset: str
    encoder: str
    fingerprint: str
    splits: dict[str, int]
    dim: int
    n_classes: int
    n_templates: int
    bytes: int
    unreadable: tuple[dict[str, str], ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    encoded: int = 0
    kept: int = 0
    bottleneck: str = ""
    workers: int = 0
    batch_size: int = 0
    notes: tuple[str, ...] = ()
    contents: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "path": str(self.path)}


ProgressCallback = Callable[[ExtractionProgress], None]


class Reporter:
    """Passes progress on to the caller, and sums wall seconds by stage.

    Parameters
    ----------
    progress : callable or None
        Called with every :class:`ExtractionProgress`.

    Attributes
    ----------
    seconds : dict of str to float
        ``read`` (waiting for decoded images), ``encode`` and ``write``.
    """

    def __init__(self, progress: ProgressCallback | None = None) -> None:
        self.seconds = {"read": 0.0, "encode": 0.0, "write": 0.0}
        self._progress = progress

    def report(self, progress: ExtractionProgress) -> None:
        """Call the caller's function, if there is one."""
        if self._progress is not None:
            self._progress(progress)

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to a stage."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += perf_counter() - start
