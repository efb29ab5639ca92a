"""A classifier as one ONNX file: image tower, head, softmax, and in its metadata what a program needs to use it.

The graph takes crops as bytes, (n, height, width, 3) of uint8, and rescales and normalises them itself, so that whoever
uses the file resizes and crops with any imaging library and does no more. Its outputs, all float32:

==================  ==========================================================================================
``probabilities``   (n, c): of ``class_names``
``unknown_score``   (n,): the higher, the more an image looks like none of the classes
``zero_shot``       (n, c): what the encoder says by its text alone; only where the fit started from text
``set_scores``      (n, all): probabilities of ``all_class_names`` by the fit that sets of classes are made with;
                    only where the run promises sets
==================  ==========================================================================================

Metadata, each value JSON: :class:`cafe.sharing.onnx_metadata.OnnxMetadata`.

What the exporter (:mod:`cafe.encoders.towers.onnx_graphs`) traces wrong is found, since every file is compared with
torch before it takes its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cafe.encoders.base import Encoder
from cafe.encoders.onnx import OnnxEncoder
from cafe.encoders.towers import onnx_graphs
from cafe.encoders.towers.onnx_graphs import CROPS, OPSET, check_size, write_graph
from cafe.encoders.towers.pillow_cropper import PairPillowCropper, PillowCropper, cropper_of
from cafe.encoders.towers.torch_encoder import TorchEncoder
from cafe.errors import CafeError, InputError
from cafe.evaluation.calibration import tempered
from cafe.files import replacing
from cafe.sharing.heads import check_exportable, method_name
from cafe.sharing.onnx_graph import ExportedGraph, PairTower, Promised
from cafe.sharing.onnx_metadata import FORMAT, PROBABILITIES, SET_SCORES, OnnxMetadata
from cafe.version import __version__

TOLERANCE = 1e-4  # of a probability; float32 sums in another order differ by some 1e-6
_BATCHES = (1, 5)  # besides all images at once


@dataclass(frozen=True)
class ExportSummary:
    """The result of an export.

    Attributes
    ----------
    path : Path
        The file.
    bytes : int
        Its size.
    opset : int
    dtype : str
    outputs : tuple of str
        Of the graph.
    images : int
        Real images on which ONNX Runtime was compared with torch.
    largest_difference : float
        Of a probability, over all of them.
    """

    path: Path
    bytes: int
    opset: int
    dtype: str
    outputs: tuple[str, ...]
    images: int
    largest_difference: float

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "path": str(self.path), "outputs": list(self.outputs)}


def import_onnx() -> tuple[Any, Any]:
    """Return the libraries onnx and onnxruntime. Raises MissingDependencyError."""
    purpose = "exporting to ONNX"
    return onnx_graphs.import_onnx(purpose), onnx_graphs.import_onnxruntime(purpose)


def export_onnx(
    path: Path,
    estimator: Any,
    encoder: Encoder,
    class_names: Sequence[str],
    promised: Promised,
    images: Sequence[Image.Image],
    *,
    decoder: str,
    row: Mapping[str, Any] | None = None,
    all_class_names: Sequence[str] | None = None,
    set_columns: Sequence[int] = (),
) -> ExportSummary:
    """Write a classifier as one ONNX file, which takes its name once it has been compared with torch.

    Parameters
    ----------
    path : Path
        The file.
    estimator : fitted classifier
        A method of :data:`cafe.sharing.heads.HEADS`.
    encoder : Encoder
        One encoder, or a pair, on the CPU in float32.
    class_names : sequence of str
        Columns of ``predict_proba``.
    promised : Promised
        Thresholds and temperature that the file holds.
    images : sequence of PIL.Image.Image
        RGB images on which ONNX Runtime and torch are compared.
    decoder : str
        The JPEG decoder, for the metadata.
    row : mapping, default=None
        Result row of the fit, for the metadata.
    all_class_names, set_columns : sequence, default=None, ()
        As of :class:`OnnxMetadata`.

    Returns
    -------
    ExportSummary

    Raises
    ------
    InputError
        If the method has no fixed head, images are prepared by more than Pillow, or it is too large for one file.
    CafeError
        If a probability differs from torch's by more than 1e-4: nothing is written then.
    """
    check_exportable(estimator)
    onnx, onnxruntime = import_onnx()
    each = _encoders_in_torch(encoder)
    identities = [part.identity() for part in each]
    preprocessing = identities[0]["image"]["preprocessing"]
    if len(each) == 2:
        preprocessing = {"first": preprocessing, "second": identities[1]["image"]["preprocessing"]}
    cropper = _same_cropper(preprocessing, encoder, images)
    unprojected = getattr(estimator, "projection", None) is not None
    all_names = list(map(str, all_class_names or class_names))
    tower = _tower_of(each, unprojected=unprojected)
    module = ExportedGraph(tower, estimator, promised, encoder.logit_scale, len(all_names)).eval()
    check_size(module, encoder.id)
    metadata = OnnxMetadata(
        FORMAT,
        __version__,
        method_name(estimator),
        list(map(str, class_names)),
        all_names,
        [int(column) for column in set_columns] or list(range(len(class_names))),
        preprocessing,
        decoder,
        _described_encoder(encoder, identities),
        promised.temperature,
        promised.thresholds,
        _sorted_scores(promised),
        None if row is None else dict(row),
    )
    crops = np.stack([cropper(image) for image in images])
    with replacing(path.absolute()) as temporary:
        write_graph(module, crops[:2], temporary, module.outputs)
        model = onnx.load(str(temporary))
        for key, value in metadata.to_strings().items():
            model.metadata_props.add(key=key, value=value)
        model.producer_name, model.producer_version = "cafe", __version__
        onnx.checker.check_model(model)
        onnx.save(model, str(temporary))
        del model
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        difference = _largest_difference(session, estimator, encoder, module, crops, unprojected)
        if not difference <= TOLERANCE:
            raise CafeError(
                f"what ONNX Runtime makes of {len(crops)} images differs from torch by {difference:.2g} of a "
                f"probability, more than {TOLERANCE:g}; nothing was written"
            )
        del session
    return ExportSummary(path, path.stat().st_size, OPSET, "float32", module.outputs, len(crops), float(difference))


def _encoders_in_torch(encoder: Encoder) -> list[TorchEncoder]:
    """Return the encoder, or both where a fit learned from two, as torch runs them.

    Raises
    ------
    InputError
        If one does not run in torch on the CPU in float32.
    """
    parts = getattr(encoder, "encoders", [encoder])
    each = [part.in_torch() if _is_in_onnx(part) else part for part in parts]
    if any(not isinstance(part, TorchEncoder) or (part.device, part.dtype) != ("cpu", "float32") for part in each):
        raise InputError(
            f"encoder {encoder.id!r} is not one on the CPU in float32, in which an exported file computes; fit on "
            f"features of one that is"
        )
    return each


def _tower_of(each: Sequence[TorchEncoder], *, unprojected: bool) -> torch.nn.Module:
    """Return the image tower of one encoder, or a module of the towers of two encoders."""
    towers = [part.image_tower(unprojected=unprojected) for part in each]
    blank = Image.new("RGB", (32, 32))
    return towers[0] if len(each) == 1 else PairTower(towers, [part.cropper(blank).shape for part in each])


def _described_encoder(encoder: Encoder, identities: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the metadata's fields on the encoder; the values of two encoders are joined by a plus sign."""
    return {
        "id": encoder.id,
        "revision": "+".join(str(identity["recorded"].get("revision") or "none") for identity in identities),
        "weights_sha256": "+".join(str(identity["image"].get("weights_sha256")) for identity in identities),
        "logit_scale": encoder.logit_scale,
    }


def _sorted_scores(promised: Promised) -> dict[str, list[float]]:
    """Return the scores that thresholds of other rates are taken from, where there are any."""
    scores = {"unknown": promised.unknown_scores, "set": promised.own_scores}
    return {name: np.sort(values).tolist() for name, values in scores.items() if values is not None}


def _is_in_onnx(encoder: Any) -> bool:
    """Whether an encoder is run by ONNX Runtime in float32, as an exported file is."""
    return isinstance(encoder, OnnxEncoder) and encoder.dtype == "float32"


def _same_cropper(
    specification: Mapping[str, Any], encoder: Encoder, images: Sequence[Image.Image]
) -> PillowCropper | PairPillowCropper:
    """Return what crops with Pillow alone, once it has made the same pixels. Raises InputError."""
    cropper = cropper_of(specification)
    probes = [Image.fromarray(_noise(height, width)) for height, width in ((53, 37), (37, 53), (31, 310), (500, 333))]
    for image in [*images, *probes]:
        if not np.array_equal(cropper(image), encoder.cropper(image)):
            raise InputError(
                f"images of {encoder.id} are prepared by {specification.get('processor')} in a way that Pillow alone "
                "does not give, so it cannot be exported"
            )
    return cropper


def _noise(height: int, width: int) -> NDArray[np.uint8]:
    """Draw an image whose every pixel tells resizing apart."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _largest_difference(
    session: Any, estimator: Any, encoder: Any, module: ExportedGraph, crops: NDArray[np.uint8], unprojected: bool
) -> float:
    """Return the largest difference of any output from what cafe computes with torch, in batches of several sizes."""
    features = encoder.encode_images_unprojected(crops)[1] if unprojected else encoder.encode_images(crops)
    expected = {PROBABILITIES: estimator.predict_proba(features)}
    if module.promised.temperature != 1.0:
        expected[PROBABILITIES] = tempered(expected[PROBABILITIES], module.promised.temperature)
    with torch.inference_mode():
        torch_outputs = dict(zip(module.outputs, module(torch.from_numpy(crops)), strict=True))
    if module.promised.scoring_fit is not None:
        expected[SET_SCORES] = module.promised.scoring_fit.predict_proba(features)
    largest = 0.0
    for n in {*(size for size in _BATCHES if size < len(crops)), len(crops)}:
        returned = dict(zip(module.outputs, session.run(list(module.outputs), {CROPS: crops[:n]}), strict=True))
        for name in module.outputs:
            if name == SET_SCORES:  # columns of classes that the scoring fit has seen
                returned[name] = returned[name][:, module.promised.scoring_fit.classes_]
            reference = expected[name] if name in expected else torch_outputs[name].numpy()
            largest = max(largest, float(np.abs(returned[name] - reference[:n]).max()))
            if not np.isfinite(returned[name]).all():
                return float("inf")
    return largest
