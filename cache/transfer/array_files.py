"""Reads arrays from NumPy, PyTorch and safetensors files, and never runs code in them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError
from cafe.foreign import check_expansion, check_regular, parse_json, reading

Arrays = dict[str, Callable[[], NDArray[Any]]]  # by name; read when called
SUFFIXES = (".npz", ".npy", ".pt", ".pth", ".safetensors")


def arrays_of_file(path: Path) -> Arrays:
    """Return a function for each array of a file, by name, that reads it; an array without a name has the file's stem.

    Raises
    ------
    InputError
        If the file is of another kind, damaged, or holds objects instead of arrays.
    """
    readers = {".npz": _npz, ".npy": _npy, ".pt": _torch, ".pth": _torch, ".safetensors": _safetensors}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise InputError(f"{path} is of no kind that can be imported; possible: {', '.join(SUFFIXES)}")
    check_regular(path)
    with reading(path):
        return readers[suffix](path)


def load_tensor_file(path: Path) -> Any:
    """Load a ``.pt`` file that holds tensors and plain containers alone.

    Raises
    ------
    InputError
        If the file holds anything else: it could run code, so it is not opened.
    """
    import pickle

    import torch

    check_regular(path)
    with reading(path, "a file of torch.save"):
        if zipfile.is_zipfile(path):
            _check_members(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{path} holds more than tensors, and opening it could run code, or is damaged; save the tensors "
                f"alone: torch.save(features.cpu(), ...)"
            ) from error


def as_array(tensor: Any, where: Path | str) -> NDArray[Any]:
    """Turn a dense tensor into an array; bfloat16, which NumPy lacks, becomes float32.

    Parameters
    ----------
    tensor : tensor
        An object from a file, of any type.
    where : path or str
        The file, or the array's name and the file, for messages.

    Raises
    ------
    InputError
        If the object is no tensor, or is a sparse, nested, quantised or complex one, or one without data.
    """
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{where}: there is a {type(tensor).__name__} where a tensor of numbers is needed")
    dense = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized
    if not dense or tensor.is_complex() or tensor.device.type != "cpu":
        kind = "nested" if tensor.is_nested else f"{tensor.layout} {tensor.dtype} on {tensor.device}"
        raise InputError(f"{where}: a tensor is {kind}; a dense one of real numbers is needed")
    if tensor.dtype == torch.bfloat16 or tensor.dtype.itemsize == 1 and tensor.is_floating_point():  # float8 as well
        tensor = tensor.float()
    array: NDArray[Any] = tensor.detach().numpy()
    return array


def _npy(path: Path) -> Arrays:
    """Return the reader of an .npy file's array."""

    def read() -> NDArray[Any]:
        with reading(path):
            return _numbers_or_texts(np.load(path, mmap_mode="r", allow_pickle=False), path)

    return {path.stem: read}


def _check_members(path: Path) -> None:
    """Raise an error if a member of a zip file would unpack to an absurd size."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            check_expansion(path, member.filename, member.compress_size, member.file_size)


def _npz(path: Path) -> Arrays:
    """Return the readers of an .npz file's arrays."""
    _check_members(path)
    with np.load(path, allow_pickle=False) as file:
        names = list(file.files)

    def read(name: str) -> NDArray[Any]:
        with reading(path), np.load(path, allow_pickle=False) as file:
            return _numbers_or_texts(file[name], path)

    return {name: partial(read, name) for name in names}


def _torch(path: Path) -> Arrays:
    """Return the readers of a PyTorch file's tensors."""
    import torch

    content = load_tensor_file(path)
    if isinstance(content, torch.Tensor):
        return {path.stem: partial(_tensor, content, path.stem, path)}
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return {name: partial(_tensor, value, name, path) for name, value in tensors.items()}
    raise InputError(f"{path} holds neither a tensor nor a dictionary of tensors")


def _tensor(tensor: Any, name: str, path: Path) -> NDArray[Any]:
    """Return a tensor of a PyTorch file as an array."""
    with reading(f"{name!r} of {path}", "an array"):
        return as_array(tensor, f"{name!r} of {path}")


def _safetensors(path: Path) -> Arrays:
    """Return the readers of a safetensors file's tensors, and of the lists of texts in its metadata."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names, metadata = list(file.keys()), file.metadata() or {}

    def read(name: str) -> NDArray[Any]:
        with reading(f"{name!r} of {path}", "an array"), safe_open(path, framework="pt") as file:
            return as_array(file.get_tensor(name), f"{name!r} of {path}")

    arrays: Arrays = {name: partial(read, name) for name in names}
    for name, text in metadata.items():  # texts, as `cafe cache export` writes them
        if text.startswith("["):
            arrays[name] = partial(_texts_of_json, text, name, path)
    return arrays


def _texts_of_json(text: str, name: str, path: Path) -> NDArray[Any]:
    """Return the texts of a JSON list, which messages call by its name and file."""
    values = parse_json(text, f"{name!r} of {path}")
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{name!r} of {path} must be a list of texts")
    return np.array(values, dtype=np.str_)


def _numbers_or_texts(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """Return an array, after checking that it holds numbers or texts."""
    if array.dtype.kind not in "fiubUS":
        raise InputError(f"{path} holds an array of {array.dtype}; numbers or texts are needed")
    return array
