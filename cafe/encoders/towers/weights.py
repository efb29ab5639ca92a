"""Hashes of a model's tensors, the same however the checkpoint was saved."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_IMAGE_PREFIXES = ("vision_", "visual_")
_TEXT_PREFIXES = ("text_",)
_NEITHER = ("logit_scale", "logit_bias")  # these change logits, not features


def tower_hashes(state: Mapping[str, torch.Tensor]) -> tuple[str, str]:
    """Hash the image side and the text side of a checkpoint.

    Each tensor counts with its name, dtype, shape and bytes, in order of name, so that the same weights
    have the same hash whatever the file format, the sharding or the order of saving. A tensor that belongs
    to neither side by its name counts on both.

    Parameters
    ----------
    state : mapping of str to torch.Tensor
        The model's ``state_dict()``, in the dtype of the checkpoint.

    Returns
    -------
    image_sha256, text_sha256 : str
        Hexadecimal.
    """
    image, text = hashlib.sha256(), hashlib.sha256()
    for name in sorted(state):
        if name in _NEITHER:
            continue
        if not name.startswith(_TEXT_PREFIXES):
            _update(image, name, state[name])
        if not name.startswith(_IMAGE_PREFIXES):
            _update(text, name, state[name])
    return image.hexdigest(), text.hexdigest()


def _update(digest: hashlib._Hash, name: str, tensor: torch.Tensor) -> None:
    import torch

    digest.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{tuple(tensor.shape)}\n".encode())
    # NumPy knows no bfloat16, but every contiguous tensor can be seen as bytes; no copy is made.
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
