"""Every Triton kernel of the program, and how its host code launches it: the one list that is compiled from.

A module of kernels has a :class:`Family` in FAMILIES, which launches each of its kernels in every form, with every tile
that the host code can choose on a card, on tensors without numbers (torch's meta device). compile_matrix.py compiles
what is launched, gpu_estimates.py reads a step from it; tests/kernels/test_compile_kernels.py fails where a module of
cafe/kernels has no family, or a kernel is not launched by its own. A new module adds its family, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import torch

from cafe.kernels.cards import Card, Tile, possible_tiles
from cafe.kernels.class_weights_reference import WeightsShape
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
    for number, (name, shape, size) in enumerate(forms):
        step = partial(adapter_step, shape, precision, card, **size)
        yield from with_tiles(name, step, precision, card, quick, every=number == 0)
    for optimizer in () if quick else ("sgd", "none"):
        step = partial(adapter_step, forms[0][1], precision, card, **sizes, optimizer=optimizer)
        yield from with_tiles(f"image, {optimizer}", step, precision, card, quick, every=False)


def with_tiles(
    name: str, launch: Callable[[], None], precision: str, card: Card, quick: bool, every: bool
) -> Iterator[Launch]:
    """Yield a case for every tile that can be chosen on the card, or the largest and smallest; the latter if quick.

    All launches of a case have the same.
    """
    count = len(possible_tiles(card, 4, precision == "fp32"))
    for number in range(count - 1 if quick else 0, count, 1 if every or count == 1 else count - 1):

        def launch_with_tile(number: int = number) -> None:
            def choose(card: Card, rows: int, columns: int, stack: int, width: int, *form: Any) -> Tile:
                """Return the possible tile of this number, or the last."""
                tiles = possible_tiles(card, width, *form)
                return tiles[min(number, len(tiles) - 1)]

            with ExitStack() as stack:
                for module in ("adapter", "class_weights"):
                    stack.enter_context(mock.patch(f"cafe.kernels.cuda.{module}.choose_tile", choose))
                launch()

        yield name, launch_with_tile


# ---------------------------------------------------------------------------- the step on class weights


def class_weight_step(
    shape: WeightsShape, precision: str, card: Card, g: int, b: int, d: int, c: int, n: int = 4096, held: bool = False
) -> None:
    """Take one step of a stack, updates included."""
    from cafe.kernels.cuda.class_weights import TritonClassWeightStep
    from cafe.training.steps import Tables

    dtype, how = PRECISIONS[precision]
    hyper = {name: empty(g) for name in ("logit_scale", "decay", "residual_scale", "index")}
    step = TritonClassWeightStep(
        shape, hyper, empty(n, d, dtype=dtype), empty(n, dtype=torch.int64), empty(c, d),
        empty(3 * g, c) if held else None, held=held, precision=how, card=card,
    )  # fmt: skip
    parameters = {"weights": empty(g, c, d)} | ({"offset": empty(g, c)} if shape.offset else {})
    counter = empty(1, dtype=torch.int64)
    tables = Tables(empty(g, 16, b, dtype=torch.int64), empty(16, g), empty(16), counter, counter, empty(g))
    step.whole_step("adamw" if shape.residual else "sgd", parameters, empty(g), 16)(tables)


def class_weight_launches(precision: str, card: Card, quick: bool) -> Iterator[Launch]:
    """Yield steps that launch every kernel in the forms of the methods."""
    sizes = {"g": 1, "b": 256, "d": 512, "c": 1000}
    forms = [("zs-lp", WeightsShape(), False, sizes)]
    if not quick:
        forms += [
            ("clap", WeightsShape(), True, sizes),
            ("task-res", WeightsShape(residual=True), True, {"g": 45, "b": 256, "d": 1024, "c": 102}),
            ("lp++", WeightsShape(cosines=False, offset=True), False, {"g": 2, "b": 33, "d": 35, "c": 66}),
        ]
    for number, (name, shape, held, size) in enumerate(forms):
        launch = partial(class_weight_step, shape, precision, card, **size, held=held)
        yield from with_tiles(name, launch, precision, card, quick, every=number == 0)


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
        ("cafe.kernels.cuda.class_weights",), class_weight_launches, without_products=frozenset({"class_rows_kernel"}),
        depths={"class_logits_kernel": "d", "class_update_kernel": "b"},
    ),
    Family(
        ("cafe.kernels.cuda.optimizers",), update_launches, precisions=("fp32",),
        without_products=frozenset({"adamw_kernel", "sgd_kernel"}),
    ),
)  # fmt: skip
WITHOUT_PRODUCTS = frozenset[str]().union(*(family.without_products for family in FAMILIES))
DEPTHS = {kernel: letter for family in FAMILIES for kernel, letter in family.depths.items()}
