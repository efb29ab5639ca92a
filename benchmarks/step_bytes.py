"""What one step of an image adapter asks memory for, byte by byte, and the least that it could.

Letters as in kernels/reference.py: g configurations, b rows, d width, h bottleneck, c classes. A product of (m, k) and
(k, n) in tiles of BM x BN reads its left side once for each of ceil(n / BN) tiles, and its right side once for each of
ceil(m / BM); the rest is read or written once by each program. Held to what the kernels do, to the byte, by
tests/kernels/cuda.
"""

from __future__ import annotations

from collections.abc import Mapping

# To a multiple of how many classes a row of logits is filled (cafe/kernels/cuda/products.py).
ALIGNED = 16
# Bytes of a logit, a parameter, a moment; of a row's number, a label or a counter.
WIDE, INDEX = 4, 8


def bytes_asked(sizes: Mapping[str, int], tiles: Mapping[str, tuple[int, int]], width: int) -> dict[str, int]:
    """Return the bytes that each launch of a whole step with AdamW asks for, of form "paper" with a given ratio.

    Parameters
    ----------
    sizes : mapping of str to int
        g, b, d, h and c.
    tiles : mapping of str to (int, int)
        BM and BN of each kernel.
    width : int
        Bytes of a number in products: 4, or 2 where the weights have narrow copies.
    """
    g, b, d, h, c = (sizes[name] for name in "gbdhc")

    def cut(kernel: str, rows: int, columns: int) -> tuple[int, int]:
        return -(-rows // tiles[kernel][0]), -(-columns // tiles[kernel][1])

    down, across = cut("hidden_kernel", b, h)
    hidden = width * (b * d * across + d * h * down + b * h) + INDEX * (b * across + down * across + 4 * b)
    down, feature_parts = cut("blend_kernel", b, d)
    blend = width * (b * h * feature_parts + h * d * down + 2 * b * d)
    blend += feature_parts * (INDEX * b + WIDE * (b + down))
    down, class_parts = cut("logits_kernel", b, c)
    row = -(-c // ALIGNED) * ALIGNED
    logits = width * (b * d * class_parts + d * c * down) + WIDE * b * row
    logits += WIDE * class_parts * (feature_parts * b + down + 2 * b)
    down, across = cut("errors_kernel", b, d)
    errors = WIDE * b * row * across + width * (c * d * down + 2 * b * d) + 2 * WIDE * b
    errors += across * (b * (INDEX + WIDE * (2 * class_parts + feature_parts)) + 2 * WIDE * down)
    down, across = cut("through_kernel", b, h)
    through = width * (b * d * across + d * h * down + 2 * b * h)
    down, across = cut("weights_kernel", h, d)
    weights = width * (b * h * across + b * d * down)
    programs = down * across
    down, across = cut("weights_kernel", d, h)
    weights += width * (b * d * across + b * h * down) + INDEX * b * down * across
    programs += down * across
    # Parameters and two moments are read and written, and narrow copies written.
    weights += 2 * d * h * (6 * WIDE + (width if width < WIDE else 0))
    weights += programs * (INDEX + 4 * WIDE) + WIDE * (b + 3) + INDEX
    each = {"hidden": hidden, "blend": blend, "logits": logits, "errors": errors, "through": through}
    asked = {f"{name}_kernel": g * value for name, value in (each | {"weights": weights}).items()}
    # One program of the whole launch copies the step's number, and one moves both counters on.
    asked["hidden_kernel"] += 2 * INDEX
    asked["logits_kernel"] += 4 * INDEX
    return asked


def least_bytes(sizes: Mapping[str, int], width: int) -> int:
    """Return the bytes of a step that keeps all it makes on the way: rows, classes, weights and moments, each once."""
    g, b, d, h, c = (sizes[name] for name in "gbdhc")
    weights = 2 * d * h * (6 * WIDE + (2 * width if width < WIDE else 0))
    return width * c * d + g * (width * b * d + weights + 2 * INDEX * b)


def multiply_adds(sizes: Mapping[str, int]) -> int:
    """Return the multiply-adds of a step's seven products."""
    g, b, d, h, c = (sizes[name] for name in "gbdhc")
    return g * (5 * b * d * h + 2 * b * d * c)
