"""Reads arrays from NumPy, PyTorch and safetensors files; nothing in them is ever run."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError

Arrays = dict[str, Callable[[], NDArray[Any]]]  # by name; read when called
SUFFIXES = (".npz", ".npy", ".pt", ".pth", ".safetensors")


def arrays_of_file(path: Path) -> Arrays:
    """List the arrays of one file by name; a file of one nameless array gives it the file's own stem.

    Raises
    ------
    InputError
        If the file is of another kind, damaged, or holds objects instead of arrays.
    """
    readers = {".npz": _npz, ".npy": _npy, ".pt": _torch, ".pth": _torch, ".safetensors": _safetensors}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise InputError(f"{path} is of no kind that can be imported; possible: {', '.join(SUFFIXES)}")
    with _reading(path):
        return readers[suffix](path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what damaged files make the libraries raise into one sentence."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read as a file of its kind ({reason_of(error)}); it may be damaged"
        ) from error


def reason_of(error: Exception) -> str:
    """Return the first line of what a library says, or the kind of error if it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__


def load_tensor_file(path: Path) -> Any:
    """Load a ``.pt`` file that holds tensors and plain containers alone.

    Raises
    ------
    InputError
        If it holds anything else: such a file could run code, so it is not opened.
    """
    import pickle

    import torch

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors, and opening it could run code; save the tensors alone: "
            f"torch.save(features.cpu(), ...)"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} is not a file of torch.save, or is damaged: {reason_of(error)}") from error


def as_array(tensor: Any) -> NDArray[Any]:
    """Turn a tensor into an array; bfloat16, which NumPy lacks, becomes float32."""
    import torch

    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: NDArray[Any] = tensor.detach().numpy()
    return array


def _npy(path: Path) -> Arrays:
    def read() -> NDArray[Any]:
        with _reading(path):
            return _numbers_or_texts(np.load(path, mmap_mode="r", allow_pickle=False), path)

    return {path.stem: read}


def _npz(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        names = list(file.files)

    def read(name: str) -> NDArray[Any]:
        with _reading(path), np.load(path, allow_pickle=False) as file:
            return _numbers_or_texts(file[name], path)

    return {name: partial(read, name) for name in names}


def _torch(path: Path) -> Arrays:
    import torch

    content = load_tensor_file(path)
    if isinstance(content, torch.Tensor):
        return {path.stem: partial(as_array, content)}
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return {name: partial(as_array, value) for name, value in tensors.items()}
    raise InputError(f"{path} holds neither a tensor nor a dictionary of tensors")


def _safetensors(path: Path) -> Arrays:
    import json

    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file, or is damaged: {error}") from error

    def read(name: str) -> NDArray[Any]:
        with safe_open(path, framework="pt") as file:
            return as_array(file.get_tensor(name))

    arrays: Arrays = {name: partial(read, name) for name in names}
    for name, text in metadata.items():  # texts, as `cafe cache export` writes them
        if text.startswith("["):
            arrays[name] = partial(np.array, json.loads(text), dtype=np.str_)
    return arrays


def _numbers_or_texts(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if array.dtype.kind not in "fiubUS":
        raise InputError(f"{path} holds an array of {array.dtype}; numbers or texts are needed")
    return array
