"""Where and in what numbers things run: the device, the precision, and how many threads.

What is asked for by name is met or refused, never replaced; ``"auto"`` takes the best that is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cafe.errors import InputError, unknown_name

if TYPE_CHECKING:
    import torch

# Of an encoder's towers, beside "auto".
ENCODING_DTYPES = ("float32", "bfloat16", "float16")
# Of training; what each means is in choose_training_dtypes.
TRAINING_DTYPES = ("auto", "float32", "float64", "bfloat16", "tf32")
# Multiply-adds below which a second thread costs more than it gains; about 2 ms on one core. A step of a few-shot fit
# is a handful of small products. Two threads gain nothing on them, and on a machine that is busy elsewhere they cost
# much: each waits, spinning, for the other to be scheduled (a demo that took 30 s alone took 200 s beside another
# program).
SMALL = 50_000_000
# Multiply-adds of a whole problem that a CPU has done (at 20 to 50 thousand million a second) in the time in which a
# GPU's context is made and its kernels are loaded, which is half a second to some seconds. An estimate: no GPU was
# at hand.
LEAST_FOR_GPU = 2e10

# ---------------------------------------------------------------------------- device


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


def choose_device_for(device: str, multiply_adds: float) -> str:
    """Return where a problem of a known size is computed.

    Parameters
    ----------
    device : str
        As :func:`choose_device` takes it. ``"auto"`` leaves to the CPU what it finishes before a GPU has started.
    multiply_adds : float
        Of the whole problem.

    Returns
    -------
    str
        As :func:`choose_device` returns it.

    Raises
    ------
    InputError
        If the device is unknown or not here.

    Examples
    --------
    >>> choose_device_for("auto", 1000)
    'cpu'
    """
    return "cpu" if device == "auto" and multiply_adds < LEAST_FOR_GPU else choose_device(device)


@contextmanager
def exact_products(device: str) -> Iterator[None]:
    """Run the body with float32 products in float32 on CUDA, whatever the process has set; its setting stays.

    PyTorch has one setting for all of a process (``allow_tf32``). A fit neither inherits it, so that it is the same
    in every program, nor changes it. Elsewhere than on CUDA nothing is done.

    Examples
    --------
    >>> with exact_products("cpu"):
    ...     pass
    """
    if not device.startswith("cuda"):
        yield
        return
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# ---------------------------------------------------------------------------- precision


def choose_encoding_dtype(dtype: str, device: str) -> str:
    """Turn what was asked for into the name of the dtype that an encoder's towers run in.

    Parameters
    ----------
    dtype : str
        ``"auto"`` is bfloat16 on CUDA and on CPUs with bfloat16 matrix units (AMX), and float32 elsewhere; otherwise
        one of ``ENCODING_DTYPES``.
    device : str
        As returned by :func:`choose_device`.

    Returns
    -------
    str
        One of ``ENCODING_DTYPES``.

    Raises
    ------
    InputError
        If the dtype is unknown.

    Examples
    --------
    >>> choose_encoding_dtype("float32", "cpu"), choose_encoding_dtype("auto", "cuda:0")
    ('float32', 'bfloat16')
    """
    if dtype == "auto":
        fast = device.startswith("cuda") or (device == "cpu" and has_matrix_units())
        return "bfloat16" if fast else "float32"
    if dtype not in ENCODING_DTYPES:
        raise unknown_name("dtype", dtype, ("auto", *ENCODING_DTYPES))
    return dtype


def choose_training_dtypes(dtype: str, kernel: str) -> tuple[torch.dtype, torch.dtype]:
    """Return the dtype of parameters and that of products, for training.

    Parameters
    ----------
    dtype : {"auto", "float32", "float64", "bfloat16", "tf32"}
        ``"bfloat16"`` means products; parameters, softmax and norms stay float32. ``"auto"`` is float32; on a CPU
        :func:`cafe.kernels.fastest.choose_cpu_step` then takes bfloat16 where it was measured to be faster.
        ``"tf32"`` is float32 in memory, rounded as it enters a product; only the triton kernel has it.
    kernel : str
        From :func:`cafe.kernels.choose.choose_kernel`.

    Returns
    -------
    tuple of two torch.dtype
        Parameters', products'.

    Raises
    ------
    InputError
        If the dtype is unknown, or the kernel does not have it.

    Examples
    --------
    >>> choose_training_dtypes("float64", "reference")
    (torch.float64, torch.float64)
    """
    import torch

    if dtype not in TRAINING_DTYPES:
        raise unknown_name("dtype of clip-adapter", str(dtype), TRAINING_DTYPES)
    if dtype == "tf32" and kernel != "triton":
        raise InputError(f"kernel {kernel!r} has no tf32 products; use dtype='float32', or kernel='triton' on CUDA")
    if dtype == "float64" and kernel == "triton":
        raise InputError("kernel 'triton' sums in float32; use dtype='float32', or kernel='reference' for float64")
    if dtype == "bfloat16" and kernel == "reference":
        raise InputError("kernel 'reference' has no bfloat16 products; use dtype='float32', or another kernel")
    if dtype == "float64":
        return torch.float64, torch.float64
    if dtype == "bfloat16":
        return torch.float32, torch.bfloat16
    return torch.float32, torch.float32


def has_matrix_units() -> bool:
    """Whether this processor multiplies bfloat16 matrices in units of their own (AMX), and torch can use them.

    Vector instructions for bfloat16 alone do not count: see :func:`has_bfloat16_vectors`.
    """
    import torch

    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported is not None and supported())


def has_bfloat16_vectors() -> bool:
    """Whether this processor multiplies bfloat16 in vectors (AVX512_BF16), and torch can tell.

    There bfloat16 encoded a ViT-B/32 3.4 times as fast as float32, at a cosine of 0.9999 (docs/extraction.md). It is
    not what ``"auto"`` takes for encoding, so that features of processors without matrix units stay the same to the
    last bits; who wants it says so.
    """
    import torch

    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported is not None and supported())


# ---------------------------------------------------------------------------- threads


@contextmanager
def threads_for(multiply_adds: float) -> Iterator[None]:
    """Run the body on one thread if each of its steps is small, else leave threads as they are.

    Parameters
    ----------
    multiply_adds : float
        Of one step, whatever repeats inside the body.

    Examples
    --------
    >>> with threads_for(1000):
    ...     pass
    """
    if multiply_adds >= SMALL:
        yield
        return
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def run_each(jobs: Sequence[Callable[[], None]]) -> None:
    """Run independent jobs, as many at once as PyTorch has threads, each on one thread.

    Fits that share nothing need no barrier between their steps, so two fits on two cores finish sooner than two
    fits one after the other on both. The jobs' tensor operations release the interpreter's lock.

    Parameters
    ----------
    jobs : sequence of callables
        In any order of execution; the first exception is raised.

    Examples
    --------
    >>> done = []
    >>> run_each([lambda: done.append(1), lambda: done.append(2)])
    >>> sorted(done)
    [1, 2]
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch

    before = torch.get_num_threads()

    def alone(job: Callable[[], None]) -> None:
        torch.set_num_threads(1)  # of this worker; OpenMP keeps the number per thread
        job()

    try:
        with ThreadPoolExecutor(before) as pool:
            futures = [pool.submit(alone, job) for job in jobs]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(before)
