"""Decides in what precision the towers run."""

from __future__ import annotations

from cafe.errors import unknown_name

DTYPES = ("float32", "bfloat16", "float16")


def choose_dtype(dtype: str, device: str) -> str:
    """Turn what was asked for into a dtype name.

    Parameters
    ----------
    dtype : str
        ``"auto"`` is bfloat16 on CUDA and on CPUs with bfloat16 matrix units (AMX), and float32 elsewhere; otherwise
        one of ``DTYPES``.
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
    >>> choose_dtype("float32", "cpu"), choose_dtype("auto", "cuda:0")
    ('float32', 'bfloat16')
    """
    if dtype == "auto":
        fast = device.startswith("cuda") or (device == "cpu" and has_matrix_units())
        return "bfloat16" if fast else "float32"
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, ("auto", *DTYPES))
    return dtype


def has_matrix_units() -> bool:
    """Whether this processor multiplies bfloat16 matrices in units of their own (AMX), and torch can use them.

    Vector instructions for bfloat16 alone do not count: see :func:`has_bfloat16_vectors`.
    """
    import torch

    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(asked is not None and asked())


def has_bfloat16_vectors() -> bool:
    """Whether this processor multiplies bfloat16 in vectors (AVX512_BF16), and torch can tell.

    There bfloat16 encoded a ViT-B/32 3.4 times as fast as float32, at a cosine of 0.9999 (docs/extraction.md). It is
    not what ``"auto"`` takes, so that features of processors without matrix units stay the same to the last bits; who
    wants it says so.
    """
    import torch

    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(asked is not None and asked())
