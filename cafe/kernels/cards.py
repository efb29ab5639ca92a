"""What a GPU has, and the tile of a matrix product that fits it.

A tile of BM rows and BN columns sums over a depth in blocks of BK, of which ``stages`` are in shared memory at once:

    bytes of shared memory = stages (BM + right BN) BK (bytes of a number)

where the right side is computed from ``right`` tensors while it is loaded.

The largest tile is taken that still gives nearly every multiprocessor a block, and as many stages as fit: a few large
tiles would leave most of a GPU idle where one small fit is trained, many small ones read each number too often in a
stack.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

# Bytes of shared memory that every card of the last ten years gives a block without asking (CUDA C++ programming
# guide, table "technical specifications per compute capability"; AMD: the whole local data share, 64 KiB).
COMMON_SHARED = 48 * 1024
# Triton's own needs beside the operands, such as a reduction across warps.
RESERVED = 2 * 1024
MOST_STAGES = 4


@dataclass(frozen=True)
class Card:
    """The limits of a GPU, by which tiles are chosen.

    Attributes
    ----------
    shared_memory : int
        Bytes that a block may have.
    multiprocessors : int
        Blocks that run side by side at least.
    """

    shared_memory: int
    multiprocessors: int


@dataclass(frozen=True)
class Tile:
    """A block of a matrix product.

    Attributes
    ----------
    rows, columns, depth : int
        BM, BN and BK; powers of two.
    warps : int
        Of 32 threads (64 on AMD).
    stages : int
        Blocks of the depth in shared memory at once.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        """Return the tile as a launch takes it."""
        return {
            "BM": self.rows,
            "BN": self.columns,
            "BK": self.depth,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


# (BM, BN, BK, warps), the largest first; chosen by estimates from compiled code (benchmarks/gpu_estimates.py).
SIZES = ((64, 128, 32, 8), (64, 64, 32, 4), (32, 64, 64, 4), (32, 32, 64, 4), (32, 32, 32, 4))
# Where the left side is computed while it is loaded, again for each tile of columns: few rows, many columns.
COMPUTED_SIZES = ((64, 128, 32, 8), (16, 64, 64, 4), (16, 64, 32, 4))
# Share of the multiprocessors that must have a block: leaving a few idle costs less than reading numbers more often.
BUSY = 0.75


@functools.cache
def card_of(device: str) -> Card:
    """Return the limits of a device; one without shared memory (Triton's interpreter) has those of a small card.

    Parameters
    ----------
    device : str
        Such as ``"cuda:0"``.
    """
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return Card(COMMON_SHARED, 16)
    about = torch.cuda.get_device_properties(device)
    # The larger limit has to be asked for at launch, which Triton does; older PyTorch does not tell it.
    shared = getattr(about, "shared_memory_per_block_optin", 0) or getattr(about, "shared_memory_per_block", 0)
    return Card(int(shared) or COMMON_SHARED, int(about.multi_processor_count))


def possible_tiles(
    card: Card, width: int, exact: bool = False, computed: bool = False, crowded: bool = False, right: int = 1
) -> list[Tile]:
    """Return every tile that :func:`choose_tile` can take on a card, the largest first.

    Parameters
    ----------
    card : Card
        The limits of the GPU.
    width : int
        Bytes of a number of the operands.
    exact : bool, default=False
        Whether the operands are float32 and are multiplied as such: without matrix units a thread holds rows of both,
        and the largest and deepest tiles would need more registers than a GPU has.
    computed : bool, default=False
        Whether the left side is computed while it is loaded.
    crowded : bool, default=False
        Whether threads hold other sums beside the product's: the largest tiles leave too few registers for these, and
        are cut to 64 x 64 and shared by eight warps.
    right : int, default=1
        Number of tensors from which the right side is computed while it is loaded.

    Examples
    --------
    >>> possible_tiles(Card(99 * 1024, 58), 4)[0]
    Tile(rows=64, columns=128, depth=32, warps=8, stages=4)
    >>> [tile.stages for tile in possible_tiles(Card(64 * 1024, 304), 4)]
    [2, 3, 2, 3, 4]
    """
    tiles = []
    for rows, columns, depth, warps in COMPUTED_SIZES if computed else SIZES:
        if exact and (warps > 4 or depth > 32):
            continue
        if crowded and rows * columns >= 64 * 64:
            columns, warps = 64, 8
        stages = (card.shared_memory - RESERVED) // ((rows + right * columns) * depth * width)
        if stages >= 1:
            tiles.append(Tile(rows, columns, depth, warps, min(MOST_STAGES, stages)))
    return list(dict.fromkeys(tiles))


def choose_tile(
    card: Card,
    rows: int,
    columns: int,
    stack: int,
    width: int,
    exact: bool = False,
    computed: bool = False,
    crowded: bool = False,
    right: int = 1,
) -> Tile:
    """Return the tile for ``stack`` products of ``rows`` x ``columns`` numbers; the rest as in :func:`possible_tiles`.

    Examples
    --------
    >>> one, many = (choose_tile(Card(227 * 1024, 132), 256, 512, stack, 4) for stack in (1, 45))
    >>> (one.rows, one.columns), (many.rows, many.columns)
    ((32, 32), (64, 128))
    """
    tiles = possible_tiles(card, width, exact, computed, crowded, right)

    def blocks(tile: Tile) -> int:
        return -(-rows // tile.rows) * -(-columns // tile.columns) * stack

    for tile in tiles:
        if blocks(tile) >= BUSY * card.multiprocessors:
            return tile
    return max(tiles, key=blocks)  # the first of equals
