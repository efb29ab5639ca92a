"""Device and dtype that somebody asked for: met, or refused before any work, never left aside."""

from __future__ import annotations

from cafe.device import choose_device
from cafe.errors import InputError, unknown_name
from cafe.kernels.choose import DTYPES
from cafe.methods import make_method


def check_wishes(device: str = "auto", dtype: str = "auto", method: str | None = None) -> None:
    """Refuse what cannot be had.

    Parameters
    ----------
    device : str, default="auto"
        As :func:`cafe.device.choose_device` takes it.
    dtype : str, default="auto"
        That of training: ``"auto"``, ``"float32"``, ``"float64"``, ``"bfloat16"`` or ``"tf32"``.
    method : str, default=None
        The one method that is to run, which must be able to meet both; None for several, of which those that train
        follow the wish.

    Raises
    ------
    InputError
        If one is unknown or not here, or the method does not train and so has no choice.

    Examples
    --------
    >>> check_wishes("cpu", "float32", "clip-adapter")
    """
    choose_device(device)
    if dtype not in DTYPES:
        raise unknown_name("dtype of training", dtype, DTYPES)
    if method is None:
        return
    known = make_method(method).get_params(deep=False)
    if dtype != "auto" and "dtype" not in known:
        raise InputError(f"{method} has no choice of dtype: it computes in that of the features; leave dtype at 'auto'")
    if device not in ("auto", "cpu") and "device" not in known:
        raise InputError(f"{method} runs on the CPU alone, not on {device!r}; leave device at 'auto'")
