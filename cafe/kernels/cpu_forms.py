"""The adapter's step on a CPU by the name of its form."""

from __future__ import annotations

from torch import Tensor

from cafe.kernels.choose import COMPILED, CPU_FORMS, DIRECT, FOLDED, PROJECTED
from cafe.kernels.compiled.adapter import CpuCompiledStep
from cafe.kernels.cpu import CpuAdapterStep
from cafe.kernels.cpu_projected import CpuProjectedStep, FrozenLogits
from cafe.kernels.reference import AdapterShape


def adapter_step(
    form: str,
    shape: AdapterShape,
    hyper: dict[str, Tensor],
    features: Tensor,
    labels: Tensor,
    text: Tensor,
    feature_mean: Tensor,
    frozen: FrozenLogits | None = None,
) -> CpuAdapterStep:
    """Return the step of a stack of configurations in that form.

    Parameters
    ----------
    form : str
        One of ``CPU_FORMS``.
    shape, hyper, features, labels, text, feature_mean
        As for :class:`cafe.kernels.cpu.CpuAdapterStep`.
    frozen : FrozenLogits, default=None
        What the configurations of a grid share in the projected form; None for its own.

    Raises
    ------
    ValueError
        If there is no such form.
    """
    arguments = (shape, hyper, features, labels, text, feature_mean)
    if form == COMPILED:
        return CpuCompiledStep(*arguments)
    if form == PROJECTED:
        return CpuProjectedStep(*arguments, FrozenLogits() if frozen is None else frozen)
    if form in (DIRECT, FOLDED):
        return CpuAdapterStep(*arguments, form == FOLDED)
    raise ValueError(f"{form!r} is none of {', '.join(CPU_FORMS)}")
