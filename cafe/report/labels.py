"""Keeps labels beside their lines from lying on top of each other."""

from __future__ import annotations

from collections.abc import Sequence


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move heights apart as little as possible, in the order that they have.

    Parameters
    ----------
    heights : sequence of float
        Where each label would like to stand.
    gap : float
        Least distance between two labels.
    low, high : float
        Labels stay between these, as far as there is room for all.

    Returns
    -------
    list of float
        Where each label stands, in the order of ``heights``.

    Examples
    --------
    >>> spread([10.0, 50.0, 50.0], 4.0, 0.0, 100.0)
    [10.0, 48.0, 52.0]
    """
    # Neighbours that touch are merged into one block, which is centred on the mean of its wishes
    # (pool adjacent violators); this is the least-squares solution.
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[tuple[float, list[int]]] = []  # (sum of wished starts, members from low to high)
    for i in order:
        total, members = heights[i], [i]
        while blocks and _start(blocks[-1]) + gap * len(blocks[-1][1]) > total / len(members):
            earlier, before = blocks.pop()
            # Member k of the joined block wishes the block to start k gaps below its own height.
            total = earlier + total - gap * len(before) * len(members)
            members = [*before, *members]
        blocks.append((total, members))
    placed = [0.0] * len(heights)
    for block in blocks:
        for k, i in enumerate(block[1]):
            placed[i] = _start(block) + gap * k
    return _inside(placed, order, gap, low, high)


def _start(block: tuple[float, list[int]]) -> float:
    total, members = block
    return total / len(members)


def _inside(placed: list[float], order: Sequence[int], gap: float, low: float, high: float) -> list[float]:
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    floor = low
    for i in order:
        placed[i] = max(placed[i], floor)
        floor = placed[i] + gap
    return placed
