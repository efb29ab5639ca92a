"""Every Triton kernel of the program, and how its host code launches it: the one list that is compiled from.

A module of kernels has a :class:`Family` in FAMILIES, which launches each of its kernels in every form, with every tile
that the host code can choose on a card, on tensors without numbers (torch's meta device). compile_matrix.py compiles
what is launched, gpu_estimates.py reads a step from it; tests/kernels/test_compile_kernels.py fails where a module of
cafe/kernels has no family, or a kernel is not launched by its own. A new module adds its family, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from unittest import mock

import torch

from cafe.kernels.cards import Card, Tile, possible_tiles
from cafe.kernels.reference import AdapterShape

# Names of tests and tables: dtype of the operands, and how float32 enters a product.
PRECISIONS = {
    "fp32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "bf16": (torch.bfloat16, "ieee"),
}
# The name of a case, and what launches its kernels.
Launch = tuple[str, Callable[[], None]]


@dataclass(frozen=True)
class Family:
    """Kernels that are launched together.

    Attributes
    ----------
    modules : tuple of str
        Where they are, such as ``"cafe.kernels.cuda.optimizers"``.
    launches : callable
        Takes a name of ``PRECISIONS``, a card, and whether one form of each kernel with the smallest tile is enough;
        yields cases.
    precisions : tuple of str
        Of ``PRECISIONS``, in which the kernels have different code.
    without_products : frozenset of str
        Kernels that multiply no matrices, so that matrix units are not asked of them.
    depths : mapping of str to str
        Of a kernel with a loop over a product's depth, the letter of the size that is its length (gpu_estimates.py).
    """

    modules: tuple[str, ...]
    launches: Callable[[str, Card, bool], Iterator[Launch]]
    precisions: tuple[str, ...] = tuple(PRECISIONS)
    without_products: frozenset[str] = frozenset()
    depths: Mapping[str, str] = field(default_factory=dict)


def empty(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a tensor without numbers."""
    return torch.empty(size, dtype=dtype, device="meta")


# ---------------------------------------------------------------------------- the adapter's step


def adapter_step(
    shape: AdapterShape,
    precision: str,
    card: Card,
    g: int,
    b: int,
    d: int,
    c: int,
    n: int = 4096,
    optimizer: str = "adamw",
) -> None:
    """Take one step of a stack, updates included."""
    from cafe.kernels.cuda.adapter import TritonAdapterStep
    from cafe.training.steps import Tables

    dtype, how = PRECISIONS[precision]
    hyper = {name: empty(g) for name in ("alpha", "beta", "logit_scale")}
    step = TritonAdapterStep(
        shape, hyper, empty(n, d, dtype=dtype), empty(n, dtype=torch.int64), empty(1, c, d), empty(g, 1, d),
        precision=how, card=card,
    )  # fmt: skip
    h, parameters = shape.bottleneck, {}
    for side, used in (("image", shape.adapts_image), ("text", shape.adapts_text)):
        if used:
            parameters |= {f"{side}_down": empty(g, d, h), f"{side}_up": empty(g, h, d)}
    if shape.alpha_mode == "scalar":
        parameters["alpha_bias"] = empty(g)
    if optimizer == "none":
        step(parameters, empty(g, b, dtype=torch.int64))
        return
    counter = empty(1, dtype=torch.int64)
    tables = Tables(empty(g, 16, b, dtype=torch.int64), empty(16, g), empty(16), counter, counter, empty(g))
    step.whole_step(optimizer, parameters, empty(g), 16)(tables)


def adapter_launches(precision: str, card: Card, quick: bool) -> Iterator[Launch]:
    """Yield steps that launch every kernel with every tile, and in every form."""
    sizes = {"g": 1, "b": 256, "d": 512, "c": 1000}
    forms: list[tuple[str, AdapterShape, dict[str, int]]] = [("image", AdapterShape("image", "paper", 128), sizes)]
    if not quick:
        forms += [
            ("image, odd sizes", AdapterShape("image", "paper", 18), {"g": 2, "b": 33, "d": 35, "c": 66}),
            ("image, released", AdapterShape("image", "released", 256), {"g": 45, "b": 256, "d": 1024, "c": 102}),
            ("image, ratio trained", AdapterShape("image", "paper", 128, "scalar"), sizes),
            ("text", AdapterShape("text", "paper", 128), sizes),
            ("both, released", AdapterShape("both", "released", 1024), {"g": 3, "b": 256, "d": 1024, "c": 20_000}),
        ]
    tiles = possible_tiles(card, PRECISIONS[precision][0].itemsize, precision == "fp32")
    for number, (name, shape, size) in enumerate(forms):
        # Every tile with the default's kernels, the smallest and the largest with their other forms.
        for tile in tiles[-1:] if quick else tiles if number == 0 else dict.fromkeys([tiles[0], tiles[-1]]):
            yield name, partial(with_tile, tile, partial(adapter_step, shape, precision, card, **size))
    for optimizer in () if quick else ("sgd", "none"):
        for tile in dict.fromkeys([tiles[0], tiles[-1]]):
            step = partial(adapter_step, forms[0][1], precision, card, **sizes, optimizer=optimizer)
            yield f"image, {optimizer}", partial(with_tile, tile, step)


def with_tile(tile: Tile, launch: Callable[[], None]) -> None:
    """Launch with one tile in place of the one that would be chosen."""
    with mock.patch("cafe.kernels.cuda.adapter.choose_tile", lambda *_: tile):
        launch()


# ---------------------------------------------------------------------------- optimisers


def update_launches(precision: str, card: Card, quick: bool) -> Iterator[Launch]:
    """Yield one step of each optimiser."""
    from cafe.kernels.optimizers import OPTIMIZERS

    for name in OPTIMIZERS:
        yield f"{name}, 45 fits", partial(update, name, 45)


def update(name: str, g: int) -> None:
    """Take one step of an optimiser."""
    from cafe.kernels.cuda.optimizers import TritonUpdate

    parameters = {"down": empty(g, 512, 128), "bias": empty(g)}
    TritonUpdate(name, parameters, empty(g), 10)(parameters, parameters, empty(g))


FAMILIES = (
    Family(
        tuple(f"cafe.kernels.cuda.{name}" for name in ("hidden", "blend", "logits", "errors", "through", "weights")),
        adapter_launches,
        depths={
            "hidden_kernel": "d", "blend_kernel": "h", "logits_kernel": "d", "errors_kernel": "c",
            "through_kernel": "d", "weights_kernel": "b",
        },
    ),
    Family(
        ("cafe.kernels.cuda.optimizers",), update_launches, precisions=("fp32",),
        without_products=frozenset({"adamw_kernel", "sgd_kernel"}),
    ),
)  # fmt: skip
WITHOUT_PRODUCTS = frozenset[str]().union(*(family.without_products for family in FAMILIES))
DEPTHS = {kernel: letter for family in FAMILIES for kernel, letter in family.depths.items()}
