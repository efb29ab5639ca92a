"""Where images come from."""

from cafe.data.opening import open_dataset

__all__ = ["open_dataset"]
