"""Any model's image tower through ONNX Runtime on the CPU, its products in int8; docs/extraction.md has what it costs.

Dynamic quantisation takes one scale of what runs together, so images run one by one: a feature depends on its image
alone, in whatever batch it comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from cafe.encoders.base import KnownModel, read_known_models
from cafe.encoders.onnx import OnnxEncoder
from cafe.encoders.towers.onnx_graphs import Precision

ENCODER = "onnx-int8"


class OnnxInt8Encoder(OnnxEncoder):
    """The image tower of any model by ONNX Runtime on the CPU, its products in int8: onnx-int8:MODEL."""

    dtypes: ClassVar[tuple[str, ...]] = ("int8",)
    precision: ClassVar[Precision] = "int8"
    library: ClassVar[str] = ENCODER
    engine: ClassVar[Mapping[str, str]] = {
        "name": "onnxruntime",
        "quantization": "dynamic",
        "weights": "int8 of 7 bits, per channel",
        "activations": "uint8, per image",
    }
    known_models: ClassVar[Mapping[str, KnownModel]] = read_known_models(ENCODER)

    @property
    def least_rows(self) -> int:
        """One: an image is computed by itself."""
        return 1

    @property
    def _images_at_once(self) -> int:
        return 1
