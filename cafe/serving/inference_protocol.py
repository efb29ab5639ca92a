"""The Open Inference Protocol, version 2: what talks to Triton, KServe and Seldon talks to this.

One input, ``image``: BYTES, of shape (n) or (n, 1), each the file of an image (base64 in JSON); or UINT8 pixels of
shape (n, height, width, 3). Outputs: ``probabilities`` FP32 (n, classes), ``class`` BYTES (n) and, where it is known,
``unknown_score`` FP32 (n). Tensors may be in JSON, or bytes behind it by Triton's extension
``binary_tensor_data``, which its clients use unless told otherwise.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md; triton-inference-server/server,
docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cafe.errors import InputError
from cafe.serving.predictor import ImageAnswer, Predictor

INPUT, PROBABILITIES, CLASS, UNKNOWN_SCORE = "image", "probabilities", "class", "unknown_score"
HEADER_LENGTH = "inference-header-content-length"
_BINARY_SIZE = "binary_data_size"


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore")


class TensorDescription(_Model):
    """A tensor that the model takes or gives."""

    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(_Model):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(_Model):
    """What the model is."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorDescription]
    outputs: list[TensorDescription]


class RequestedInput(_Model):
    """An input tensor of a request."""

    name: str
    datatype: str
    shape: list[int] = Field(max_length=8)
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class RequestedOutput(_Model):
    """An output tensor that a request asks for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferenceRequest(_Model):
    """A request of the protocol."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[RequestedInput] = Field(min_length=1, max_length=16)
    outputs: list[RequestedOutput] | None = None


class OutputTensor(_Model):
    """An output tensor of a response."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferenceResponse(_Model):
    """A response of the protocol."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes
    ----------
    images : list of bytes, or ndarray of shape (n, height, width, 3), uint8
        Files of images, or pixels.
    request : InferenceRequest
    """

    images: list[bytes] | NDArray[np.uint8]
    request: InferenceRequest


def model_metadata(predictor: Predictor) -> ModelMetadata:
    """Describe the model."""
    n = len(predictor.class_names)
    return ModelMetadata(
        name=predictor.name,
        versions=["1"],
        platform=predictor.platform,
        inputs=[TensorDescription(name=INPUT, datatype="BYTES", shape=[-1])],
        outputs=[
            TensorDescription(name=PROBABILITIES, datatype="FP32", shape=[-1, n]),
            TensorDescription(name=CLASS, datatype="BYTES", shape=[-1]),
            TensorDescription(name=UNKNOWN_SCORE, datatype="FP32", shape=[-1]),
        ],
    )


def read_request(body: bytes, header_length: str | None, most_images: int) -> Asked:
    """Read the body of a request.

    Parameters
    ----------
    body : bytes
        JSON, with tensors as bytes behind it where ``header_length`` is given.
    header_length : str or None
        Bytes of the JSON.
    most_images : int
        That one request may hold.

    Raises
    ------
    InputError
        If it is not as the protocol has it; the message says what.
    """
    if header_length is not None and (not header_length.isdecimal() or int(header_length) > len(body)):
        raise InputError(f"{HEADER_LENGTH} is {header_length[:40]!r}, and the body has {len(body)} bytes")
    end = len(body) if header_length is None else int(header_length)
    try:
        request = InferenceRequest.model_validate(json.loads(body[:end]))
    except RecursionError:
        raise InputError("the request is nested too deep") from None
    except ValueError as error:
        raise InputError(f"the request is not JSON of the Open Inference Protocol: {_first_line(error)}") from error
    tensor = request.inputs[0]
    if len(request.inputs) > 1 or tensor.name != INPUT:
        names = ", ".join(repr(each.name[:40]) for each in request.inputs[:4])
        raise InputError(f"the model has one input, {INPUT!r}; got {names}")
    n = tensor.shape[0] if tensor.shape else 0
    if not 1 <= n <= most_images:
        raise InputError(f"a request holds 1 to {most_images} images; the shape is {tensor.shape}")
    size = (tensor.parameters or {}).get(_BINARY_SIZE)
    raw = None
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(body) - end:
            raise InputError(f"{_BINARY_SIZE} is {size!r}, and {len(body) - end} bytes follow the JSON")
        raw = body[end : end + size]
    if tensor.datatype == "BYTES" and tensor.shape in ([n], [n, 1]):
        files = _files_in(raw) if raw is not None else [_decoded_file(each) for each in _flat(tensor.data or [])]
        if len(files) != n:
            raise InputError(f"the shape says {n} images, and {len(files)} came")
        return Asked(files, request)
    if tensor.datatype == "UINT8" and len(tensor.shape) == 4 and tensor.shape[3] == 3 and min(tensor.shape) > 0:
        return Asked(_pixels(tensor, raw), request)
    raise InputError(
        f"{INPUT!r} is BYTES of shape [n], the files of images, or UINT8 of shape [n, height, width, 3]; got "
        f"{tensor.datatype[:20]} of shape {tensor.shape}"
    )


def check_outputs(request: InferenceRequest) -> None:
    """Refuse outputs that the model does not have. Raises InputError."""
    known = (PROBABILITIES, CLASS, UNKNOWN_SCORE)
    for output in request.outputs or ():
        if output.name not in known:
            raise InputError(f"the model has the outputs {', '.join(known)}; got {output.name[:40]!r}")


def write_response(
    predictor: Predictor, request: InferenceRequest, answers: Sequence[ImageAnswer]
) -> tuple[InferenceResponse, bytes]:
    """Write the response, and the bytes that follow its JSON.

    Returns
    -------
    response : InferenceResponse
    tail : bytes
        Of outputs that were asked for as binary data; empty for none.
    """
    probabilities = np.stack([answer.probabilities for answer in answers]).astype("<f4")  # (n, c)
    names = [predictor.class_names[int(best)] for best in probabilities.argmax(axis=1)]
    values: dict[str, tuple[str, Any]] = {PROBABILITIES: ("FP32", probabilities), CLASS: ("BYTES", names)}
    if all(answer.unknown_score is not None for answer in answers):
        values[UNKNOWN_SCORE] = ("FP32", np.array([answer.unknown_score for answer in answers], dtype="<f4"))
    everywhere = bool((request.parameters or {}).get("binary_data_output", False))
    output_names = [output.name for output in request.outputs or ()] or list(values)
    asked = {output.name: output.parameters or {} for output in request.outputs or ()}
    outputs, tail = [], b""
    for name in output_names:
        if name not in values:
            continue
        datatype, value = values[name]
        shape = [len(value)] if isinstance(value, list) else list(value.shape)
        tensor = OutputTensor(name=name, datatype=datatype, shape=shape)
        if asked.get(name, {}).get("binary_data", everywhere):
            raw = _lengths(value) if isinstance(value, list) else value.tobytes()
            tensor.parameters, tail = {_BINARY_SIZE: len(raw)}, tail + raw
        else:
            tensor.data = value if isinstance(value, list) else value.ravel().tolist()
        outputs.append(tensor)
    return InferenceResponse(model_name=predictor.name, model_version="1", id=request.id, outputs=outputs), tail


def _first_line(error: Exception) -> str:
    """Return the first error of a refused request, on one line."""
    details = getattr(error, "errors", None)
    if callable(details):
        first = details()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).partition("\n")[0]


def _flat(values: list[Any]) -> list[Any]:
    """Flatten a list of values and lists of values."""
    return [inner for each in values for inner in (each if isinstance(each, list) else [each])]


def _decoded_file(text: Any) -> bytes:
    """Return the bytes of a file from its base64 text. Raises InputError."""
    if not isinstance(text, str):
        raise InputError(f"data of BYTES are strings, the files of images in base64; got {type(text).__name__}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("data of BYTES are the files of images in base64, and this is none") from None


def _files_in(raw: bytes) -> list[bytes]:
    """Return the elements of a BYTES tensor; each follows its length, 4 bytes, little endian."""
    files, offset = [], 0
    while offset < len(raw):
        if offset + 4 > len(raw):
            raise InputError("the binary data of BYTES ends within a length")
        (length,) = struct.unpack_from("<I", raw, offset)
        if offset + 4 + length > len(raw):
            raise InputError("the binary data of BYTES is shorter than its lengths say")
        files.append(raw[offset + 4 : offset + 4 + length])
        offset += 4 + length
    return files


def _lengths(values: Sequence[str]) -> bytes:
    """Return texts as the elements of a BYTES tensor, each behind its length."""
    parts = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def _pixels(tensor: RequestedInput, raw: bytes | None) -> NDArray[np.uint8]:
    """Return the pixels of a UINT8 tensor, from binary data if there are any, else from JSON."""
    n_bytes = 1
    for side in tensor.shape:
        n_bytes *= side
    if raw is not None:
        if len(raw) != n_bytes:
            raise InputError(f"shape {tensor.shape} of UINT8 has {n_bytes} bytes, and {len(raw)} came")
        return np.frombuffer(raw, dtype=np.uint8).reshape(tensor.shape)
    try:
        values = np.asarray(tensor.data if tensor.data is not None else [])
    except ValueError:
        raise InputError("the data has rows of different lengths") from None
    if values.size != n_bytes or values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise InputError(f"data of shape {tensor.shape} are {n_bytes} whole numbers of 0 to 255")
    return values.astype(np.uint8).reshape(tensor.shape)
