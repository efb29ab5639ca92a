"""Image towers as ONNX graphs: written by torch's tracer, in float32 or in int8, and kept in the cache folder.

A graph takes crops as bytes, and rescales and normalises them itself. The exporter is torch's older one, which traces:
it needs no further package, makes one file, and is the same from torch 2.6 on.

Dynamic quantisation in int8 (:func:`onnxruntime.quantization.quantize_dynamic`): of every product with weights,
``x @ W``, each column of W is stored as whole numbers with a scale of its own, and x is rounded to bytes with one scale
that is taken from x as it comes. Weights have 7 bits: processors without VNNI add pairs of products in 16 bits, where
8-bit weights would overflow (onnxruntime's documentation of quantization, "reduce_range").

A graph is made once. It is kept in ``onnx/`` of the cache folder as ``KEY-SHA256.onnx``: what it was made of, and the
hash of its bytes, by which a damaged one is found and made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CafeError, InputError, MissingDependencyError
from cafe.files import remove_leftovers, replacing, sha256_of_file
from cafe.measured import kept_in

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "int8"]

OPSET = 17  # the first with layer normalisation as one operator
CROPS = "crops"  # a graph's input
FEATURES = "features"
EXTRA = "onnx"
MOST_BYTES = 2**31 - 2**20  # what one protobuf message can hold, less the graph itself
_FOLDER = "onnx"
# Part of the keys of kept graphs: to be raised when graphs are made in another way.
_FORMAT = 1
# Most that a graph's features may differ from torch's, as a share of the largest entry: float32 sums in another order
# differ by some 1e-6.
_TOLERANCE = 1e-3
# Least cosine of features in int8 with those in float32: cafe:mini's were at 0.9995 and above (docs/extraction.md).
_LEAST_COSINE = 0.9


def import_onnxruntime(purpose: str) -> Any:
    """Return the library onnxruntime. Raises MissingDependencyError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("onnxruntime", EXTRA, purpose) from error
    return onnxruntime


def open_session(library: Any, graph: Path | bytes, threads: int, *, few: bool) -> Any:
    """Open a session of ONNX Runtime on a graph.

    Parameters
    ----------
    library : module
        onnxruntime.
    graph : Path or bytes
        The graph's file, or its content.
    threads : int
        Threads of one run, the caller's included; 0 takes one for each core.
    few : bool
        Whether only few images will come: the weights are not repacked then, since that would cost more than it saves.

    Returns
    -------
    onnxruntime.InferenceSession
        On the CPU.
    """
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what is wrong is said by the exception
    # Threads that wait for work would otherwise spin, and take a core from whoever decodes and serves.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if few:
        options.add_session_config_entry("session.disable_prepacking", "1")
    content = graph if isinstance(graph, bytes) else str(graph)
    return library.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def import_onnx(purpose: str) -> Any:
    """Return the library onnx. Raises MissingDependencyError."""
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("onnx", EXTRA, purpose) from error
    return onnx


def check_size(module: torch.nn.Module, name: str) -> None:
    """Refuse a model that does not fit into one file; ``name`` is its encoder's. Raises InputError."""
    size = sum(value.numel() * value.element_size() for value in [*module.parameters(), *module.buffers()])
    if size > MOST_BYTES:
        raise InputError(
            f"the image tower of {name} has {size / 1e9:.1f} GB in float32, and one ONNX file holds 2 GB; take a "
            "smaller encoder"
        )


def write_graph(
    module: torch.nn.Module, crops: NDArray[np.uint8], out: Path | IO[bytes], outputs: Sequence[str]
) -> None:
    """Trace a module that takes crops, and write its ONNX graph.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode.
    crops : ndarray of shape (n, ...), uint8
        Two or more crops, on which the module is traced; their number is left open in the graph.
    out : Path or binary stream
        Where the graph is written.
    outputs : sequence of str
        Names of what the module returns.
    """
    import torch

    target: Any = str(out) if isinstance(out, Path) else out  # the library takes streams too, without annotation
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns that sizes become constants, which they are
        torch.onnx.export(
            module,
            (torch.from_numpy(crops),),
            target,
            dynamo=False,
            opset_version=OPSET,
            input_names=[CROPS],
            output_names=list(outputs),
            dynamic_axes={name: {0: "images"} for name in (CROPS, *outputs)},
        )


class TowerGraph:
    """The graph of an image tower, and ONNX Runtime's sessions that run it on the CPU.

    Parameters
    ----------
    name : str
        Of the encoder, for messages.
    identity : mapping
        Whatever changes a feature, as JSON.
    precision : {"float32", "int8"}
        Of the products.
    tower : callable
        Makes the module that the graph is traced from, where none is kept; see
        :meth:`cafe.encoders.towers.torch_encoder.TorchEncoder.image_tower`.
    probes : ndarray of uint8
        Two or more crops, on which a new graph is compared with the module.

    Raises
    ------
    MissingDependencyError
        If onnxruntime is not installed.
    """

    def __init__(
        self, name: str, identity: Mapping[str, Any], precision: Precision, tower: Any, probes: NDArray[np.uint8]
    ) -> None:
        self._name, self._identity, self._precision = name, identity, precision
        self._tower, self._probes = tower, probes
        self._library = import_onnxruntime(f"the encoder {name}")
        self._graph: Path | bytes | None = None
        self._sessions: dict[tuple[int, bool], Any] = {}
        self._lock = threading.RLock()  # batches come from several threads

    def __reduce__(self) -> Any:
        """Pickle the bytes of the graph too, for another process, which may be on another machine."""
        graph = self._source()
        content = graph.read_bytes() if isinstance(graph, Path) else graph
        return _with_content, (self._name, self._identity, self._precision, content, self._probes)

    def run(self, crops: NDArray[np.uint8], threads: int, *, few: bool = False) -> NDArray[np.float32]:
        """Run the graph on crops.

        Parameters
        ----------
        crops : ndarray of shape (n, ...), uint8
            n is at least 1.
        threads : int
            Of ONNX Runtime, the caller's included.
        few : bool, default=False
            Whether only few images will come: the weights are not repacked then, since that would cost more than it
            saves.

        Returns
        -------
        ndarray of shape (n, d), float32
        """
        features: NDArray[np.float32] = self._session(threads, few).run([FEATURES], {CROPS: crops})[0]
        return features

    def _session(self, threads: int, few: bool) -> Any:
        """Return the session for that number of threads, and for few images or many; it is opened at the first call."""
        key = threads, few
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = open_session(self._library, self._source(), threads, few=few)
            return self._sessions[key]

    def _source(self) -> Path | bytes:
        """Return the file of the kept graph, which is made if missing; its bytes if the folder cannot be written to."""
        with self._lock:
            if self._graph is None:
                made_of = [_FORMAT, self._identity, self._library.__version__]
                key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
                folder = kept_in() / _FOLDER
                self._graph = _sound_graph(folder, key) or self._keep(folder, key, self._make())
            return self._graph

    def _keep(self, folder: Path, key: str, content: bytes) -> Path | bytes:
        """Write a graph into the folder and return its path; return the bytes where they cannot be written."""
        path = folder / f"{key}-{hashlib.sha256(content).hexdigest()}.onnx"
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(content)
            remove_leftovers(folder)
        except (OSError, CafeError):
            return content
        return path

    def _features_of_probes(self, graph: bytes) -> NDArray[np.float32]:
        """Run a new graph on the probes, and return their features (n, d)."""
        session = open_session(self._library, graph, 1, few=True)
        features: NDArray[np.float32] = session.run([FEATURES], {CROPS: self._probes})[0]
        return features

    def _make(self) -> bytes:
        """Trace the tower, compare its graph with it, and quantise it where that is the precision."""
        import torch

        purpose = f"making the graph of the encoder {self._name}"
        onnx = import_onnx(purpose)
        tower = self._tower()
        check_size(tower, self._name)
        with torch.inference_mode():
            expected = tower(torch.from_numpy(self._probes)).float().numpy()
        stream = io.BytesIO()
        try:
            write_graph(tower, self._probes, stream, [FEATURES])
            features = self._features_of_probes(stream.getvalue())
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # of the tracer and of ONNX Runtime
            reason = str(error).strip().partition("\n")[0][:200]
            raise self._refusal(f"its tower cannot be traced into a graph: {reason}") from error
        if not np.abs(features - expected).max() <= _TOLERANCE * np.abs(expected).max():
            raise self._refusal("its graph gives other features than torch")
        if self._precision == "float32":
            return stream.getvalue()
        content = _quantised(onnx.load_from_string(stream.getvalue()))
        features = self._features_of_probes(content)
        if not _lowest_cosine(features, expected) >= _LEAST_COSINE:
            raise self._refusal(f"in int8 its features have a cosine below {_LEAST_COSINE} with those in float32")
        return content

    def _refusal(self, reason: str) -> InputError:
        plain = self._name.partition(":")[2]
        return InputError(f"{self._name} cannot be run by ONNX Runtime: {reason}; --model {plain} runs it in torch")


class _SentGraph(TowerGraph):
    """A graph that came from another process."""

    def __init__(
        self, name: str, identity: Any, precision: Precision, content: bytes, probes: NDArray[np.uint8]
    ) -> None:
        super().__init__(name, identity, precision, None, probes)
        self._graph = content


def _with_content(*arguments: Any) -> TowerGraph:
    return _SentGraph(*arguments)


def _sound_graph(folder: Path, key: str) -> Path | None:
    """Return the first kept graph of the key whose bytes have the hash in its name; None if all are damaged.

    Damaged graphs that come before it are removed.
    """
    for path in sorted(folder.glob(f"{key}-*.onnx")):
        with suppress(OSError):
            if path.name == f"{key}-{sha256_of_file(path)}.onnx":
                return path
            path.unlink()
    return None


def _quantised(model: Any) -> bytes:
    """Return a graph whose products with weights are in int8; see the module's docstring."""
    import tempfile

    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, _quiet_root_logger():
        out = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model, out, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, reduce_range=True,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
        return out.read_bytes()


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Keep the library's advice to its developers, which it gives through the root logger, off the screen."""
    root = logging.getLogger()
    before, had_handlers = root.level, bool(root.handlers)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
        if not had_handlers:
            root.handlers.clear()  # logging.warning adds one where there is none


def _lowest_cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the lowest cosine of a row of ``first`` (n, d) with the same row of ``second``."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / lengths).min())
