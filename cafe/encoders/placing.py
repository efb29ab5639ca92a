"""Decides in what precision the towers run."""

from __future__ import annotations

from cafe.errors import unknown_name

DTYPES = ("float32", "bfloat16", "float16")


def choose_dtype(dtype: str, device: str) -> str:
    """Turn what was asked for into a dtype name.

    Parameters
    ----------
    dtype : str
        ``"auto"`` is bfloat16 on CUDA and float32 elsewhere; otherwise one of ``DTYPES``.
    device : str
        As returned by :func:`choose_device`.

    Returns
    -------
    str
        One of ``DTYPES``.

    Raises
    ------
    InputError
        If the dtype is unknown.

    Examples
    --------
    >>> choose_dtype("auto", "cpu"), choose_dtype("auto", "cuda:0")
    ('float32', 'bfloat16')
    """
    if dtype == "auto":
        return "bfloat16" if device.startswith("cuda") else "float32"
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, ("auto", *DTYPES))
    return dtype
