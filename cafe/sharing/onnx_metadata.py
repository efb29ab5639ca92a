"""The metadata of an exported ONNX file, read and written without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cafe.encoders.towers.onnx_graphs import OPSET
from cafe.errors import InputError
from cafe.version import __version__

FORMAT = 1
PROBABILITIES, UNKNOWN_SCORE, ZERO_SHOT, SET_SCORES = "probabilities", "unknown_score", "zero_shot", "set_scores"


@dataclass(frozen=True)
class OnnxMetadata:
    """The metadata of an exported file.

    Attributes
    ----------
    format : int
        Of this table: 1.
    cafe_version, method : str
        What made it.
    class_names : list of str
        Columns of ``probabilities``.
    all_class_names : list of str
        Columns of ``set_scores``: classes without a training image too.
    set_columns : list of int
        The index of each of ``class_names`` among these.
    preprocessing : dict
        Resizing and cropping, as :class:`cafe.encoders.towers.pillow_cropper.PillowCropper` takes it.
    decoder : str
        Of JPEG files.
    encoder : dict
        ``id``, ``revision``, ``weights_sha256``, ``logit_scale``.
    temperature : float
        What logits are divided by, within the graph; 1 where no temperature is sure to help.
    thresholds : dict
        ``unknown``: by rate of false alarms, the ``unknown_score`` above which an image is called unknown. ``set``: by
        coverage, the value that ``1 - set_scores`` of a class must not exceed for it to be in the set.
    scores : dict
        ``unknown`` and ``set``: the sorted scores that thresholds of any other rate are taken from.
    row : dict or None
        How it did, as a row of `cafe fit --json`.
    opset : int
    dtype : str
    """

    format: int
    cafe_version: str
    method: str
    class_names: list[str]
    all_class_names: list[str]
    set_columns: list[int]
    preprocessing: dict[str, Any]
    decoder: str
    encoder: dict[str, Any]
    temperature: float = 1.0
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    row: dict[str, Any] | None = None
    opset: int = OPSET
    dtype: str = "float32"

    def to_strings(self) -> dict[str, str]:
        """Return it as an ONNX file holds it."""
        return {key: json.dumps(value, ensure_ascii=False) for key, value in asdict(self).items()}

    @classmethod
    def from_strings(cls, path: Path, texts: Mapping[str, str]) -> OnnxMetadata:
        """Read the metadata of an exported file.

        Raises
        ------
        InputError
            If the file is another program's, damaged, or of a newer format.
        """
        try:
            values = {each.name: json.loads(texts[each.name]) for each in fields(cls)}
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{path} says nothing of classes and preprocessing in its metadata, so it was not written by "
                f"`cafe export`, or is damaged"
            ) from error
        if not isinstance(values["format"], int) or values["format"] > FORMAT:
            raise InputError(
                f"{path} has format {values['format']} of exported files; this cafe {__version__} reads up to {FORMAT}"
            )
        return cls(**values)
