"""Which kernel runs; in which precision is decided in cafe/compute.py.

``auto`` takes the fastest that this machine has; a kernel asked for by name is met or refused, never replaced.
"""

from __future__ import annotations

import importlib.util
import os

from cafe.errors import InputError, unknown_name

KERNELS = ("auto", "reference", "cpu", "triton")


def choose_kernel(kernel: str, device: str) -> str:
    """Return the kernel that will run.

    Parameters
    ----------
    kernel : {"auto", "reference", "cpu", "triton"}
        ``"auto"`` takes ``"triton"`` on CUDA where Triton is installed, ``"cpu"`` on a CPU, else ``"reference"``.
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
            return "triton" if has_triton() else "reference"
        return "cpu" if device == "cpu" else "reference"
    if kernel == "cpu" and device != "cpu":
        raise InputError(f"kernel 'cpu' cannot run on device {device!r}; use kernel='auto', or device='cpu'")
    if kernel == "triton" and not has_triton():
        raise InputError("kernel 'triton' needs the package triton, which is not installed; use kernel='auto'")
    if kernel == "triton" and not device.startswith("cuda") and not interpreting():
        raise InputError(
            f"kernel 'triton' cannot run on device {device!r}; use kernel='auto', "
            "or set TRITON_INTERPRET=1 to run it, very slowly, in Triton's interpreter"
        )
    return kernel


def has_triton() -> bool:
    """Return whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Return whether Triton's interpreter was asked for."""
    return os.environ.get("TRITON_INTERPRET") == "1"
