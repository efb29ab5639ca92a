"""Features that stay where they are, on disk or as float16, and are widened and scaled a few rows at a time.

A method that takes rows by index, or in blocks, never has a copy of the whole; any other gets one from
``numpy.asarray``, as if it had been given an array.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import validate_data

from cafe.methods.inputs.cosines import Array, unit_length

# Bytes of float16 in memory from which a float32 copy is not made; memory maps are never copied.
LARGE = 2**30
# Rows that are checked, summed or scored at once: 32 MiB of 1,024 float32.
BLOCK_ROWS = 8192
# Share of a GPU's free memory that features may have; the rest is for what is computed from them.
SHARE_OF_DEVICE = 0.6


class StoredRows:
    """An (n, d) array of float32 (float64, where that is stored) whose rows are converted when they are read.

    Parameters
    ----------
    stored : ndarray of shape (N, d)
        A memory map, or an array.
    normalize : bool, default=False
        Whether rows are scaled to length one.
    rows : ndarray of shape (n,), int64, default=None
        Which rows, in which order; None for all.
    block_rows : int, default=BLOCK_ROWS
        How many rows are checked, summed or scored at once.

    Examples
    --------
    >>> rows = StoredRows(np.array([[3.0, 4.0], [0.0, 2.0]], np.float16), normalize=True)
    >>> rows[:1].tolist(), rows[np.array([1, 0])].dtype
    ([[0.6000000238418579, 0.800000011920929]], dtype('float32'))
    """

    def __init__(
        self,
        stored: Array,
        normalize: bool = False,
        rows: NDArray[np.int64] | None = None,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        self.stored, self.normalize, self.rows, self.block_rows = stored, normalize, rows, block_rows
        self.dtype = np.result_type(stored.dtype, np.float32)
        self.shape = (len(stored) if rows is None else len(rows), stored.shape[1])
        self.ndim, self.size = 2, self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        """Return rows as an array; the key is a slice, or an array of indices or of booleans."""
        stored = np.asarray(self.stored[key if self.rows is None else self.rows[key]])
        wide = np.array(stored, dtype=self.dtype)  # a copy, since the memory map is read-only
        return unit_length(wide) if self.normalize else wide

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return all rows as an array in memory."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def take(self, rows: NDArray[np.int64]) -> StoredRows:
        """Return the given rows without reading them."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        own = rows if self.rows is None else self.rows[rows]
        return StoredRows(self.stored, self.normalize, own, self.block_rows)

    def normalised(self) -> StoredRows:
        """Return the same rows, scaled to length one when they are read."""
        return StoredRows(self.stored, True, self.rows, self.block_rows)


def stays_stored(X: Any, large: int = LARGE) -> bool:
    """Return whether X is to stay as it is stored, and to be read a few rows at a time.

    X is then a :class:`StoredRows`, or a matrix (n, d), n at least 1, that is a memory map of floats or that holds
    ``large`` bytes of float16 or more.

    Examples
    --------
    >>> stays_stored(np.zeros((2, 2), np.float16))
    False
    """
    if isinstance(X, StoredRows):
        return True
    is_large = isinstance(X, np.ndarray) and X.dtype == np.float16 and X.nbytes >= large
    mapped = isinstance(X, np.memmap) and X.dtype.kind == "f"
    return (is_large or mapped) and X.ndim == 2 and len(X) > 0


def check_stored(estimator: Any, X: Any, y: Any) -> tuple[StoredRows, Array]:
    """Check features that stay stored, and labels, as scikit-learn's ``validate_data`` does, block by block.

    Raises
    ------
    ValueError
        scikit-learn's own: if a number is not finite, or X and y have different lengths.
    """
    rows = X if isinstance(X, StoredRows) else StoredRows(X)
    labels: Array = check_array(y, ensure_2d=False, dtype=None, input_name="y")
    check_consistent_length(rows, labels)
    for part in row_blocks(rows):
        check_array(rows[part], dtype=[np.float32, np.float64], input_name="X", estimator=estimator)
    validate_data(estimator, rows[:1], dtype=[np.float32, np.float64])  # sets n_features_in_
    return rows, labels


def why_no_room(X: Array | StoredRows, device: str) -> str:
    """Return why features do not fit on a GPU, as a sentence, or "" where they do.

    Examples
    --------
    >>> why_no_room(np.zeros((2, 2)), "cpu")
    ''
    """
    if not device.startswith("cuda"):
        return ""
    import torch

    needed, free = X.size * np.dtype(X.dtype).itemsize, torch.cuda.mem_get_info(device)[0]
    if needed <= SHARE_OF_DEVICE * free:
        return ""
    return (
        f"the features need {needed / 2**30:.1f} GiB in {X.dtype}, and {device} has {free / 2**30:.1f} GiB free; "
        "use device='cpu', which reads those on disk a few rows at a time"
    )


def uploaded(rows: StoredRows, device: str, dtype: Any = None) -> Any:
    """Return the rows as one tensor on a device, widened and scaled there a block at a time.

    Parameters
    ----------
    rows : StoredRows of shape (n, d)
        On disk or in memory.
    device : str
        Of a GPU.
    dtype : torch.dtype, default=None
        Of the tensor; None for that of the rows.
    """
    import torch

    kind = torch.from_numpy(np.zeros(0, rows.dtype)).dtype if dtype is None else dtype
    tensor = torch.empty(rows.shape, dtype=kind, device=device)
    for part in row_blocks(rows):
        tensor[part] = torch.from_numpy(rows[part]).to(device, kind)
    return tensor


def row_blocks(X: Array | StoredRows, n: int | None = None) -> Iterator[slice]:
    """Cut n rows of X, by default all, into slices of as many as are read at once.

    Examples
    --------
    >>> list(row_blocks(StoredRows(np.zeros((3, 2)), block_rows=2)))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    n, size = len(X) if n is None else n, X.block_rows if isinstance(X, StoredRows) else BLOCK_ROWS
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))
