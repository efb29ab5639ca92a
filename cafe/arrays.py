"""Functions for code that computes with NumPy arrays and with PyTorch tensors alike.

On a CPU methods and solvers work on NumPy arrays, without importing PyTorch; on a GPU the same lines work on tensors.
PyTorch has most functions under the same names (``functions(x).exp``); this module has the rest. Sums over rows of a
class are products or segments, never atomic additions, so that they are the same in every run.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def is_tensor(x: Any) -> TypeGuard[Any]:
    """Return whether x is a tensor; PyTorch is not imported to tell.

    Examples
    --------
    >>> is_tensor(np.zeros(2))
    False
    """
    return type(x).__module__.partition(".")[0] == "torch"


def functions(x: Any) -> Any:
    """Return the module whose functions take x: NumPy or PyTorch.

    Examples
    --------
    >>> functions(np.zeros(2)).__name__
    'numpy'
    """
    if not is_tensor(x):
        return np
    import torch

    return torch


def on_device(x: Any, device: str) -> Any:
    """Return an array for computing on a device: the array itself for the CPU, else a tensor on the device.

    Examples
    --------
    >>> on_device(np.zeros(2), "cpu")
    array([0., 0.])
    """
    if device == "cpu":
        return x
    import torch

    return torch.from_numpy(np.array(x)).to(device)


def on_host(x: Any) -> Array:
    """Return a NumPy array; one that is on a device is copied."""
    array: Array = x.cpu().numpy() if is_tensor(x) else x
    return array


def like(values: Array, x: Any) -> Any:
    """Return values in x's dtype and on x's device: as an array, or as a tensor if x is one.

    Examples
    --------
    >>> like(np.ones(2), np.zeros(2, np.float32)).dtype
    dtype('float32')
    """
    if not is_tensor(x):
        return np.asarray(values).astype(x.dtype, copy=False)
    import torch

    return torch.as_tensor(np.asarray(values)).to(device=x.device, dtype=x.dtype)


def index_like(rows: Array, x: Any) -> Any:
    """Return row indices or a mask in a form that x can be indexed with: as a tensor on x's device if x is a tensor."""
    return on_device(rows, str(x.device)) if is_tensor(x) else rows


def numpy_dtype(x: Any) -> Any:
    """Return the NumPy dtype of an array or a tensor.

    Examples
    --------
    >>> numpy_dtype(np.zeros(2, np.float32))
    dtype('float32')
    """
    return np.dtype(str(x.dtype).removeprefix("torch."))


def double(x: Any) -> Any:
    """Return x in float64."""
    return x.double() if is_tensor(x) else x.astype(np.float64)


def in_dtype_of(values: Any, x: Any) -> Any:
    """Return values, an array or a tensor as x is, in x's dtype."""
    return values.to(x.dtype) if is_tensor(values) else values.astype(x.dtype)


def relu(x: Any) -> Any:
    """Return max(0, x) of every number."""
    return functions(x).relu(x) if is_tensor(x) else np.maximum(x, 0)


def one_hot(labels: Array, n_classes: int, x: Any) -> Any:
    """Return labels as rows of zeros with a 1 in the column of the class, (n, n_classes), in x's dtype, on its device.

    Examples
    --------
    >>> one_hot(np.array([1, 0]), 2, np.zeros(1)).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    return like(np.arange(n_classes) == np.asarray(labels)[:, None], x)


def sums_by_class(rows: Any, labels: Array, n_classes: int) -> Any:
    """Return the sum of the rows (n, d) of each class, (n_classes, d).

    Examples
    --------
    >>> sums_by_class(np.array([[1.0], [2.0], [4.0]]), np.array([0, 1, 0]), 2).tolist()
    [[5.0], [2.0]]
    """
    if is_tensor(rows):
        return one_hot(labels, n_classes, rows).T @ rows
    from scipy.sparse import csr_array

    # The rows of each class in their order: what np.add.at adds, in the same order, but faster.
    order = np.argsort(labels, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=n_classes))])
    return csr_array((np.ones(len(order), rows.dtype), order, ends), shape=(n_classes, len(order))) @ rows


def segment_sums(values: Any, starts: Array) -> Any:
    """Return sums of neighbouring columns, (rows, segments): segment i is from ``starts[i]`` to the next.

    Parameters
    ----------
    values : array or tensor of shape (rows, columns)
        What is summed.
    starts : ndarray of shape (segments,), int64
        Increasing, from 0.

    Examples
    --------
    >>> segment_sums(np.array([[1.0, 2.0, 4.0]]), np.array([0, 2])).tolist()
    [[3.0, 4.0]]
    """
    if not is_tensor(values):
        return np.add.reduceat(values, starts, axis=1)
    import torch

    lengths = on_device(np.diff(np.append(starts, values.shape[1])), str(values.device))
    # Lengths are known to be right: checking them would wait for the device.
    return torch.segment_reduce(values.T.contiguous(), "sum", lengths=lengths, axis=0, unsafe=True).T


def kernel_name(device: str) -> str:
    """Return the name of the library that computes on a device, for ``kernel_``.

    Examples
    --------
    >>> kernel_name("cpu"), kernel_name("cuda:0")
    ('numpy', 'torch')
    """
    return "numpy" if device == "cpu" else "torch"
