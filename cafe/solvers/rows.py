"""Rows of an array in blocks, so that data larger than memory passes through a few megabytes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

# Bytes of one block: features in the dtype of the computation, and the logits of its rows.
BLOCK_BYTES = 16 * 2**20
# On a GPU blocks are larger: each costs a few launches, and no cache there holds 16 MiB.
DEVICE_BLOCK_BYTES = 2**30


class RowSource(Protocol):
    """An array of rows that can be sliced, in memory or on disk: a NumPy array, memory map, tensor or HDF5 data set."""

    @property
    def shape(self) -> Any:
        """Number of rows and their width."""

    def __getitem__(self, rows: slice) -> Any:
        """Return rows as an array or tensor."""


def row_blocks(
    X: RowSource, columns: int, dtype: torch.dtype, block_bytes: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield each block of rows as its slice and its rows (rows, d), converted to ``dtype``.

    Parameters
    ----------
    X : array of shape (n, d)
        In memory or on disk; float16 is read as it is and converted here. One that has ``block_rows`` is read so many
        rows at a time, at most.
    columns : int
        How many numbers the caller computes from each row, beside the d that it reads.
    dtype : torch.dtype
        Of the computation.
    block_bytes : int, default=None
        Bytes of one block; None for ``BLOCK_BYTES`` on a CPU and ``DEVICE_BLOCK_BYTES`` on a GPU.

    Examples
    --------
    >>> [part.stop for part, _ in row_blocks(np.zeros((5, 2), np.float16), BLOCK_BYTES // 16, torch.float32)]
    [3, 5]
    """
    n, d = X.shape
    on_cpu = not isinstance(X, Tensor) or X.device.type == "cpu"
    size = max(1, (block_bytes or (BLOCK_BYTES if on_cpu else DEVICE_BLOCK_BYTES)) // (dtype.itemsize * (columns + d)))
    size = min(size, getattr(X, "block_rows", size))
    # Blocks get about equal sizes: a last block of a few rows would cost almost as much as a full one.
    size = -(-n // max(1, -(-n // size)))
    for start in range(0, n, size):
        part = slice(start, min(n, start + size))
        block = X[part]
        if not isinstance(block, Tensor):
            array = np.asarray(block)
            # PyTorch shares memory, and warns about sharing what must not be written to.
            block = torch.from_numpy(array if array.flags.writeable else array.copy())
        yield part, block.to(dtype)
