"""Where tensors live."""

from __future__ import annotations

from cafe.errors import InputError


def choose_device(device: str = "auto") -> str:
    """Turn what was asked for into a device that is here.

    Parameters
    ----------
    device : str, default "auto"
        ``"auto"`` takes CUDA, else MPS, else the CPU; otherwise ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.

    Returns
    -------
    str
        ``"cpu"``, ``"cuda:0"``, ``"mps"``, ...

    Raises
    ------
    InputError
        If the device is unknown or not here: an explicit wish is never replaced by another device.

    Examples
    --------
    >>> choose_device("cpu")
    'cpu'
    """
    import torch

    has_mps = torch.backends.mps.is_available()
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda:0"
        return "mps" if has_mps else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (kind != "cuda" and index) or (":" in device and not index.isdecimal()):
        raise InputError(f"unknown device {device!r}; possible: auto, cpu, cuda, cuda:1 (and so on), mps")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise InputError(f"device {device!r} is not here: this PyTorch sees {count} CUDA devices; use auto or cpu")
        return f"cuda:{int(index or 0)}"
    if kind == "mps" and not has_mps:
        raise InputError("device 'mps' is not here; use auto or cpu")
    return kind
