"""Which kernel runs, and in which precision its products run.

``auto`` takes the fastest path that this machine has; a wish by name is met or refused, never replaced.
"""

from __future__ import annotations

import importlib.util
import os

import torch

from cafe.errors import InputError, unknown_name

KERNELS = ("auto", "reference", "cpu", "triton")
DTYPES = {
    "auto": None,
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "tf32": torch.float32,
}
# Multiply-adds of one step below which bfloat16 products do not pay for their casts: at 160 x 128 with 10 classes
# (4.5 million) float32 is faster, at 256 x 512 with 102 classes (140 million) bfloat16 is.
LEAST_FOR_BFLOAT16 = 20_000_000


def choose_kernel(wish: str, device: str) -> str:
    """Return the kernel that will run.

    Parameters
    ----------
    wish : {"auto", "reference", "cpu", "triton"}
        ``"auto"`` takes ``"triton"`` on CUDA where Triton is installed, ``"cpu"`` on a CPU, else ``"reference"``.
    device : str
        As :func:`cafe.compute.choose_device` returns it.

    Raises
    ------
    InputError
        If the wish is unknown, or cannot be met on this device.

    Examples
    --------
    >>> choose_kernel("auto", "cpu")
    'cpu'
    """
    if wish not in KERNELS:
        raise unknown_name("kernel of clip-adapter", str(wish), KERNELS)
    if wish == "auto":
        if device.startswith("cuda"):
            return "triton" if has_triton() else "reference"
        return "cpu" if device == "cpu" else "reference"
    if wish == "cpu" and device != "cpu":
        raise InputError(f"kernel 'cpu' cannot run on device {device!r}; use kernel='auto', or device='cpu'")
    if wish == "triton" and not has_triton():
        raise InputError("kernel 'triton' needs the package triton, which is not installed; use kernel='auto'")
    if wish == "triton" and not device.startswith("cuda") and not interpreting():
        raise InputError(
            f"kernel 'triton' cannot run on device {device!r}; use kernel='auto', "
            "or set TRITON_INTERPRET=1 to run it, very slowly, in Triton's interpreter"
        )
    return wish


def has_triton() -> bool:
    """Return whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Return whether Triton's interpreter was asked for."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def has_bfloat16_products() -> bool:
    """Return whether this processor multiplies bfloat16 matrices faster than float32 ones.

    Read from its features, AMX or AVX512-BF16, so that a machine always answers the same; docs/performance.md
    has what was measured.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    found = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(bool(ask()) for ask in found if ask is not None)


def precisions(wish: str, kernel: str, multiply_adds: int) -> tuple[torch.dtype, torch.dtype]:
    """Return the dtype of parameters and that of products.

    Parameters
    ----------
    wish : {"auto", "float32", "float64", "bfloat16", "tf32"}
        ``"bfloat16"`` means products; parameters, softmax and norms stay float32. ``"auto"`` is bfloat16 where the
        processor gains by it and a step is large enough, else float32. It depends on the single fit alone, so that
        a fit is the same whatever it is stacked with. ``"tf32"`` is float32 in memory, rounded as it enters a
        product; only the triton kernel has it.
    kernel : str
        From :func:`choose_kernel`.
    multiply_adds : int
        Of one step of one configuration.

    Raises
    ------
    InputError
        If the wish is unknown, or the kernel does not have it.
    """
    if wish not in DTYPES:
        raise unknown_name("dtype of clip-adapter", str(wish), DTYPES)
    chosen = DTYPES[wish]
    if wish == "tf32" and kernel != "triton":
        raise InputError(f"kernel {kernel!r} has no tf32 products; use dtype='float32', or kernel='triton' on CUDA")
    if wish == "float64" and kernel == "triton":
        raise InputError("kernel 'triton' sums in float32; use dtype='float32', or kernel='reference' for float64")
    if chosen is None:
        gains = kernel == "cpu" and multiply_adds >= LEAST_FOR_BFLOAT16 and has_bfloat16_products()
        chosen = torch.bfloat16 if gains else torch.float32
    if chosen != torch.bfloat16:
        return chosen, chosen
    if kernel == "reference":
        raise InputError("kernel 'reference' has no bfloat16 products; use dtype='float32', or another kernel")
    return torch.float32, chosen
