"""Where images come from."""

from cafe.data.arrays import from_arrays
from cafe.data.opening import open_dataset

__all__ = ["from_arrays", "open_dataset"]
