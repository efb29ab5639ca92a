"""The step on class weights: against float64, and timed beside the library's products, recorded and not."""

from __future__ import annotations

from typing import Any

from gpu_parts.shared import (
    DEVICE,
    Rows,
    Sizes,
    against_truth,
    failure_is_a_row,
    library_precision,
    made_up,
    timed_steps,
)


def problem(sizes: Sizes, shape: Any, g: int) -> dict[str, Any]:
    """Return a step's tensors on the device, float32; residuals are small beside the text that they are added to."""
    import torch

    X, y, text = made_up(sizes.n, sizes.c, sizes.d)
    generator = torch.Generator().manual_seed(0)
    anchor = torch.from_numpy(text)
    weights = 0.1 * torch.randn(g, *anchor.shape, generator=generator) / sizes.d**0.5
    parameters = {"weights": weights if shape.residual else anchor + weights}
    if shape.offset:
        parameters["offset"] = torch.randn(g, sizes.c, generator=generator)
    hyper = {"logit_scale": torch.linspace(30, 60, g), "decay": torch.full((g,), 1e-3)}
    hyper["residual_scale"] = torch.full((g,), 0.5)
    index = torch.randint(0, sizes.n, (g, sizes.b), generator=generator)
    return {
        "parameters": {name: value.to(DEVICE) for name, value in parameters.items()},
        "hyper": {name: value.to(DEVICE) for name, value in hyper.items()},
        "X": torch.from_numpy(X).to(DEVICE),
        "y": torch.from_numpy(y).to(DEVICE),
        "anchor": anchor.to(DEVICE),
        "index": index.to(DEVICE),
    }


def step_of(kind: str, precision: str, shape: Any, of: dict[str, Any]) -> Any:
    """Return a step: ``"triton"``, or ``"library"`` (torch's products, analytic gradients, no autograd)."""
    import torch

    from cafe.kernels.class_weights import ClassWeightStep

    products = torch.bfloat16 if precision == "bfloat16" else torch.float32
    parts = (shape, of["hyper"], of["X"].to(products), of["y"], of["anchor"])
    if kind == "library":
        return ClassWeightStep(*parts, block_bytes=2**40)  # blocks of rows are for a CPU's caches
    from cafe.kernels.cuda.class_weights import TritonClassWeightStep

    return TritonClassWeightStep(*parts, precision="tf32" if precision == "tf32" else "ieee")


def class_weights(sizes: Sizes, row: Rows) -> None:
    """Class weights under cosines, as a residual, and with offsets: right, and how long a step takes."""
    from cafe.kernels.class_weights_reference import WeightsShape, class_weight_losses_and_gradients

    forms = {"cosines": WeightsShape(), "residual": WeightsShape(residual=True)}
    forms["offset"] = WeightsShape(cosines=False, offset=True)
    for name, shape in forms.items():
        for g in (1, 2):
            of = problem(sizes, shape, g)
            exact = [{k: v.double() for k, v in of[each].items()} for each in ("parameters", "hyper")]
            rows, labels = of["X"].double()[of["index"]], of["y"][of["index"]]
            truth = class_weight_losses_and_gradients(shape, *exact, rows, labels, of["anchor"].double())
            for precision in sizes.precisions:
                about = {"weights": name, "g": g, "precision": precision, "c": sizes.c, "d": sizes.d}
                with failure_is_a_row(row, **about, step="triton"):
                    step = step_of("triton", precision, shape, of)
                    off = against_truth(step, of["parameters"], of["index"], *truth, precision)
                    row(**about, step="triton", **off)
                if g > 1:
                    continue
                for kind, recorded in (("triton", True), ("triton", False), ("library", False)):
                    what = {**about, "step": kind, "graph": recorded}
                    with failure_is_a_row(row, **what), library_precision(precision):
                        step = step_of(kind, precision, shape, of)
                        seconds = timed_steps(sizes, step, of["parameters"], sizes.n, sizes.b, recorded)
                        row(**what, microseconds=1e6 * seconds, ok=True)
