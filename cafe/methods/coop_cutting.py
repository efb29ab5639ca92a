"""How CoOp's prompts are cut into parts that are encoded together: by length, and by what memory allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Padding tokens that are worth a part of their own: about what a part's prefix and its small operations cost.
PART_TOKENS = 128


@dataclass(frozen=True)
class Part:
    """Prompts that are encoded together.

    Attributes
    ----------
    classes : Tensor of shape (k,), int64
        Which.
    length : int
        Tokens that each is cut to: those of the longest.
    tokens : int
        Tokens that the tower encodes for them; what they share is counted once.
    """

    classes: Tensor
    length: int
    tokens: int


def cut(
    lengths: Sequence[int], shared: int, most_classes: int, most_tokens: float, device: torch.device | str = "cpu"
) -> list[Part]:
    """Cut classes into parts of like length, the longest first.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each class's prompt.
    shared : int
        Tokens that all prompts begin with and that a part encodes once.
    most_classes, most_tokens : int, float
        What a part may have at most; a part of one class may have more tokens.
    device : torch.device or str, default="cpu"
        Where the parts' indices live.

    Examples
    --------
    >>> [(part.classes.tolist(), part.tokens) for part in cut([5, 7, 6], 2, 2, 100)]
    [([1, 2], 12), ([0], 5)]
    """
    parts: list[list[int]] = []
    padding = 0
    for one in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if parts:
            longest, more = lengths[parts[-1][0]], len(parts[-1]) + 1
            padding += longest - lengths[one]
            if more <= most_classes and shared + more * (longest - shared) <= most_tokens and padding <= PART_TOKENS:
                parts[-1].append(one)
                continue
        parts.append([one])
        padding = 0
    return [
        Part(torch.tensor(members, device=device), length, shared + len(members) * (length - shared))
        for members in parts
        for length in [lengths[members[0]]]
    ]
