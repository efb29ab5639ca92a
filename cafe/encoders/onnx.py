"""Any model's image tower through ONNX Runtime on the CPU, in float32; ``onnx_int8.py`` is the same in int8.

The text side, the preprocessing and the numbers of logits are the model's own, in float32. Features differ from those
of torch in their last digits at least, so the engine is part of their identity: they are never taken for each other.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cafe.compute import threads_of_a_product
from cafe.encoders.base import Encoder, KnownModel, read_known_models
from cafe.encoders.examples import save_tiny_clip
from cafe.encoders.opening import open_encoder
from cafe.encoders.stopping import check_stopped
from cafe.encoders.text_towers.base import TextTower
from cafe.encoders.towers.onnx_graphs import Precision, TowerGraph
from cafe.encoders.towers.torch_encoder import TorchEncoder, check_crops
from cafe.errors import InputError

ENCODER = "onnx"


class OnnxEncoder(Encoder):
    """The image tower of any model by ONNX Runtime on the CPU, in float32: onnx:MODEL.

    Parameters
    ----------
    model_id : str
        What the encoder calls itself.
    model : TorchEncoder
        On the CPU in float32.
    """

    parallel = True
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    precision: ClassVar[Precision] = "float32"
    library: ClassVar[str] = ENCODER
    engine: ClassVar[Mapping[str, str]] = {"name": "onnxruntime"}
    known_models: ClassVar[Mapping[str, KnownModel]] = read_known_models(ENCODER)

    def __init__(self, model_id: str, model: TorchEncoder) -> None:
        self.id, self.device, self.dtype = model_id, "cpu", self.dtypes[0]
        self.dim, self.batch_size, self.cropper = model.dim, model.batch_size, model.cropper
        self.logit_scale, self.logit_bias = model.logit_scale, model.logit_bias
        self._model = model
        probes = np.stack([model.cropper(picture) for picture in _probe_pictures()])
        # The graph ends before the projection where that is one matrix; features are products with that matrix in
        # float32, for int8 graphs too.
        unprojected = self._projection is not None
        self._graph = TowerGraph(
            model_id, {**self.image_identity(), "unprojected": unprojected}, self.precision,
            _TowerOf(model, unprojected), probes,
        )  # fmt: skip

    @classmethod
    def open(cls, source: str, device: str, dtype: str, model_id: str | None = None) -> Self:
        """Load a model.

        Parameters
        ----------
        source : str
            A model as :func:`cafe.encoders.open_encoder` takes it.
        device : str
            ``"auto"`` or ``"cpu"``.
        dtype : str
            ``"auto"``, or the one that this engine has.
        model_id : str or None
            What the encoder calls itself; None takes the name of the engine and ``source``.

        Raises
        ------
        InputError
            If the model is not there, or the device or dtype is another; when images are encoded, if its tower cannot
            be written as a graph.
        MissingDependencyError
            If onnxruntime is not installed; or onnx, when a graph is made.
        """
        name = model_id or f"{cls.library}:{source}"
        if device not in ("auto", "cpu"):
            raise InputError(
                f"{name} runs on the CPU, and device {device!r} was asked for; use cpu, or --model {source}"
            )
        if dtype not in ("auto", *cls.dtypes):
            raise InputError(f"{name} computes in {cls.dtypes[0]}, and dtype {dtype!r} was asked for; leave it out")
        model = open_encoder(source, "cpu", "float32")
        if not isinstance(model, TorchEncoder):
            raise InputError(f"{name}: ONNX Runtime runs towers of torch, and {source!r} is none; name the model alone")
        return cls(name, model)

    @classmethod
    def write_example(cls, folder: Path) -> str:
        """Write a tiny CLIP in the hub's layout; see the base class."""
        return f"{cls.library}:{save_tiny_clip(folder)}"

    # ------------------------------------------------------------------ images

    @property
    def least_rows(self) -> int:
        """Rows below which a batch is filled up in extraction; that of the tower in torch."""
        return self._model.least_rows

    @property
    def takes_views(self) -> bool:
        """Whether augmented views can be encoded."""
        return self._model.takes_views

    def encode_images(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode pixels (n, height, width, 3) to features (n, d). Raises InputError if the pixels are others."""
        return self._encode(crops)[0]

    def encode_images_unprojected(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode pixels to features (n, d) and to what goes into the projection (n, w); see the base class."""
        if self._projection is None:
            return super().encode_images_unprojected(crops)
        return self._encode(crops)

    def encode_for_prediction(self, crops: NDArray[np.uint8], *, unprojected: bool = False) -> NDArray[np.float32]:
        """Encode pixels as they come, by all processors; see the base class."""
        if unprojected and self._projection is None:
            return super().encode_for_prediction(crops, unprojected=True)
        return self._encode(crops, few=True)[int(unprojected)]

    def _encode(
        self, crops: NDArray[np.uint8], *, few: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return features (n, d), and what goes into the projection (n, w).

        Without a projection both are the features. ``few`` says that only few images will come, as in
        :meth:`TowerGraph.run`.
        """
        check_crops(crops)
        threads, size = threads_of_a_product(), self._images_at_once
        projection = self._projection
        width = self.dim if projection is None else len(projection)
        features, inputs = [np.empty((0, self.dim), np.float32)], [np.empty((0, width), np.float32)]
        for start in range(0, len(crops), size):
            check_stopped()  # ONNX Runtime cannot be stopped within a run
            rows = self._graph.run(crops[start : start + size], threads, few=few)
            inputs.append(rows)
            features.append(rows if projection is None else rows @ projection)
        return np.concatenate(features), np.concatenate(inputs)

    @property
    def _images_at_once(self) -> int:
        """Images that one run of the graph takes."""
        return self.batch_size

    @cached_property
    def _projection(self) -> NDArray[np.float32] | None:
        return self._model.projection()

    def projection(self) -> NDArray[np.float32] | None:
        """Return the image tower's final projection (w, d); None where it has none that is one matrix."""
        return self._projection

    # ------------------------------------------------------------------ text

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower."""
        return self._model.has_text

    def encode_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Encode prompts by the model's own text tower, in float32: (n, d)."""
        return self._model.with_batch_size(self.batch_size).encode_text(prompts)

    def text_tower(self) -> TextTower:
        """Return the model's live text tower."""
        return self._model.text_tower()

    # ------------------------------------------------------------------ identity

    def image_identity(self) -> dict[str, Any]:
        """Return what changes an image's feature: that of the model, the engine and its dtype."""
        return {**self._model.image_identity(), "dtype": self.dtype, "engine": dict(self.engine)}

    def identity(self) -> dict[str, Any]:
        """Return what changes a feature (``image``, ``text``) and what is only recorded; all of it JSON."""
        of_model = self._model.identity()
        versions = {**of_model["recorded"]["versions"], "onnxruntime": version("onnxruntime")}
        recorded = {
            **of_model["recorded"],
            "id": self.id,
            "library": self.library,
            "versions": versions,
            "device": "cpu",
        }
        return {"image": self.image_identity(), "text": of_model["text"], "recorded": recorded}

    def in_torch(self) -> TorchEncoder:
        """Return the same model in torch, whose tower the graph was written from."""
        return self._model


class _TowerOf:
    """Makes the module that a graph is traced from."""

    def __init__(self, model: TorchEncoder, unprojected: bool) -> None:
        self._model, self._unprojected = model, unprojected

    def __call__(self) -> Any:
        return copy.copy(self._model).image_tower(unprojected=self._unprojected)


def _probe_pictures() -> list[Image.Image]:
    """Return three pictures of noise, coarse and fine."""
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (4, 16, 64)]
    return [Image.fromarray(pixels).resize((96, 96)) for pixels in noise]
