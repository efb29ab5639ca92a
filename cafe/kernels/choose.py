"""Which kernel runs; which form of the CPU's, and in which precision, is decided in fastest.py.

``auto`` takes the fastest that this machine has; a kernel asked for by name is met or refused, never replaced.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings

from cafe.errors import CafeWarning, InputError, unknown_name

# Turing's; what Triton compiles for since its version 3.
LEAST_CAPABILITY = (7, 5)
# Ampere's: matrix units for bfloat16 and tf32.
BFLOAT16_CAPABILITY = (8, 0)
# Forms of the CPU's step (cpu.py has the formulas); the last is the direct form with passes built from C.
DIRECT, FOLDED, PROJECTED, COMPILED = "cpu-direct", "cpu-folded", "cpu-projected", "cpu-compiled"
CPU_FORMS = (DIRECT, FOLDED, PROJECTED, COMPILED)
KERNELS = ("auto", "reference", "cpu", *CPU_FORMS, "triton")


def choose_kernel(kernel: str, device: str) -> str:
    """Return the kernel that will run.

    Parameters
    ----------
    kernel : {"auto", "reference", "cpu", "cpu-direct", "cpu-folded", "cpu-projected", "cpu-compiled", "triton"}
        ``"auto"`` takes ``"triton"`` on CUDA where it can run (else it says why not, and takes ``"reference"``),
        ``"cpu"`` on a CPU, else ``"reference"``; ``"cpu"`` leaves the form to
        :func:`cafe.kernels.fastest.choose_cpu_step`.
    device : str
        As :func:`cafe.compute.choose_device` returns it.

    Raises
    ------
    InputError
        If the kernel is unknown, or cannot run on this device.

    Examples
    --------
    >>> choose_kernel("auto", "cpu")
    'cpu'
    """
    if kernel not in KERNELS:
        raise unknown_name("kernel of clip-adapter", str(kernel), KERNELS)
    if kernel == "auto":
        if device.startswith("cuda"):
            why = triton_fault(device)
            if why:
                # The caller of `fit`, four calls up.
                warnings.warn(f"training goes without Triton's kernels, slower: {why}", CafeWarning, stacklevel=5)
            return "reference" if why else "triton"
        return "cpu" if device == "cpu" else "reference"
    if kernel in ("cpu", *CPU_FORMS) and device != "cpu":
        raise InputError(f"kernel {kernel!r} cannot run on device {device!r}; use kernel='auto', or device='cpu'")
    if kernel == "triton" and not has_triton():
        raise InputError("kernel 'triton' needs the package triton, which is not installed; use kernel='auto'")
    if kernel == "triton" and not device.startswith("cuda") and not interpreting():
        raise InputError(
            f"kernel 'triton' cannot run on device {device!r}; use kernel='auto', "
            "or set TRITON_INTERPRET=1 to run it, very slowly, in Triton's interpreter"
        )
    if kernel == "triton" and device.startswith("cuda") and (why := triton_fault(device)):
        raise InputError(f"kernel 'triton' cannot run on {device!r}: {why}; use kernel='auto'")
    return kernel


def triton_products(dtype: str, device: str) -> str:
    """Return the precision in which Triton's kernels multiply.

    Parameters
    ----------
    dtype : str
        A precision is met; ``"auto"`` is bfloat16 on a GPU with matrix units for it, as the CPU's auto takes it where
        it is faster: within 0.2 points of float32's accuracy, by tests/training/test_grid_precision.py. Else float32.
    device : str
        As :func:`cafe.compute.choose_device` returns it.

    Examples
    --------
    >>> triton_products("auto", "cpu"), triton_products("tf32", "cuda:0")
    ('float32', 'tf32')
    """
    if dtype != "auto":
        return dtype
    if not device.startswith("cuda") or interpreting():  # the interpreter multiplies the bits of bfloat16
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY else "float32"


def triton_fault(device: str) -> str:
    """Return why Triton's kernels cannot run on a CUDA device, as a part of a sentence; "" where they can.

    Asked before a kernel is chosen: a launch that fails would end a fit half-way.
    """
    if interpreting():
        return ""
    if not has_triton():
        return "the package triton is not installed"
    import torch

    from cafe.kernels.cards import card_of, possible_tiles

    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < LEAST_CAPABILITY:
        return f"{device} has compute capability {capability[0]}.{capability[1]}, and Triton needs 7.5"
    shared = card_of(device).shared_memory
    if not possible_tiles(card_of(device), 4):
        return f"{device} gives a block {shared} bytes of shared memory, too few for the smallest tile"
    if not has_compiler():
        return "Triton builds its launchers with a C compiler, and none is here (set CC, or install gcc or clang)"
    return ""


def has_compiler() -> bool:
    """Return whether there is the C compiler that Triton would call."""
    return any(shutil.which(name) for name in (os.environ.get("CC") or "gcc", "clang", "gcc"))


def has_triton() -> bool:
    """Return whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Return whether Triton's interpreter was asked for."""
    return os.environ.get("TRITON_INTERPRET") == "1"
