"""Where and in what numbers things run: the device, the precision, and how many threads.

What is asked for by name is met or refused, never replaced; ``"auto"`` takes the best that is here.
"""

from __future__ import annotations

import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from threading import Event, Lock, local
from typing import TYPE_CHECKING, Any

from cafe.errors import InputError, unknown_name
from cafe.measured import seconds_of

if TYPE_CHECKING:
    import torch

# Of an encoder's towers, beside "auto".
ENCODING_DTYPES = ("float32", "bfloat16", "float16")
# Of training; what each means is in choose_training_dtypes.
TRAINING_DTYPES = ("auto", "float32", "float64", "bfloat16", "tf32")
# How much faster bfloat16 must be to be taken for encoding: less would not pay for the digits it costs.
WORTH_BFLOAT16 = 4 / 3
# Of the layers that are timed: with the layer back 0.3 GFLOP, 3 ms of a core at 100 GFLOP/s.
_MEASURED_ROWS, _MEASURED_WEIGHTS = 128, 600_000
# Multiply-adds below which a second thread costs more than it gains; about 2 ms on one core. A step of a few-shot fit
# is a handful of small products. Two threads gain nothing on them, and on a machine that is busy elsewhere they cost
# much: each waits, spinning, for the other to be scheduled (a demo that took 30 s alone took 200 s beside another
# program).
SMALL = 50_000_000
# Multiply-adds of a whole problem that a CPU has done (at 20 to 50 thousand million a second) in the time in which a
# GPU's context is made and its kernels are loaded, which is half a second to some seconds. An estimate: no GPU was
# at hand.
LEAST_FOR_GPU = 2e10

# Of the drivers of NVIDIA (also under WSL, and on Jetson boards) and AMD.
_DEVICE_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvmap", "/dev/nvhost-gpu", "/dev/kfd")

# ---------------------------------------------------------------------------- device


def choose_device(device: str = "auto") -> str:
    """Return the name of an available device for a requested device.

    Parameters
    ----------
    device : str, default "auto"
        ``"auto"`` takes CUDA (the device of this process's rank, where a launcher has started several), else MPS, else
        the CPU; otherwise ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.

    Returns
    -------
    str
        ``"cpu"``, ``"cuda:0"``, ``"mps"``, ...

    Raises
    ------
    InputError
        If the device is unknown or not available: an explicit request is never replaced by another device.

    Examples
    --------
    >>> choose_device("cpu")
    'cpu'
    """
    if device == "cpu" or (device == "auto" and not may_have_accelerator()):
        return "cpu"
    import torch

    has_mps = torch.backends.mps.is_available()
    if device == "auto":
        if torch.cuda.is_available():
            return f"cuda:{local_rank(os.environ) % max(1, torch.cuda.device_count())}"
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


def local_rank(environment: Mapping[str, str]) -> int:
    """Return this process's number among the processes that a launcher started on this machine; 0 without a launcher.

    Processes that torchrun, SLURM or MPI start side by side take a GPU each.

    Examples
    --------
    >>> local_rank({"LOCAL_RANK": "3"}), local_rank({})
    (3, 0)
    """
    for name in ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"):
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    return 0


@functools.cache
def capture_stream(device: int) -> torch.cuda.Stream:
    """Return the stream that CUDA graphs of a device are captured on: one for each, made once.

    ``torch.cuda.graph`` has one for all devices, made on the first that was used.
    """
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def choose_device_for(device: str, multiply_adds: float) -> str:
    """Return the device to compute a problem on, by the problem's size.

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


class _ExactProducts:
    """Holds PyTorch's setting for float32 products on CUDA at float32 while at least one fit or scoring runs.

    The setting belongs to the process, so the first to enter changes it and the last to leave puts it back: threads
    that fit side by side would otherwise restore it under each other, and the last would restore another's change.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = Lock(), 0, ""

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = _product_precision()
                if self._before not in EXACT:
                    _product_precision(EXACT[0])
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            # Who changed it meanwhile in another thread has the last word.
            if self._inside == 0 and self._before not in EXACT and _product_precision() in EXACT:
                _product_precision(self._before)


_exact_products = _ExactProducts()
# PyTorch's names for exact float32 products: stated, or by default.
EXACT = ("ieee", "none")


def _product_precision(change: str | None = None) -> str:
    """Return, and with ``change`` set, the precision of float32 products in cuBLAS: ``"tf32"`` or one of ``EXACT``.

    PyTorch 2.9 has this setting beside the older ``allow_tf32`` and ``set_float32_matmul_precision``, and raises where
    an older setting is read after the new one was changed. Only the new setting is changed here, and set back.
    """
    import torch

    settings: Any = torch.backends.cuda.matmul
    if not hasattr(settings, "fp32_precision"):  # before 2.9
        if change is not None:
            settings.allow_tf32 = change not in EXACT
        return "tf32" if settings.allow_tf32 else EXACT[0]
    if change is not None:
        settings.fp32_precision = change
    return str(settings.fp32_precision)


@contextmanager
def exact_products(device: str) -> Iterator[None]:
    """Run the body with exact float32 products on CUDA, then restore the setting of the process.

    cuBLAS reads one setting for all of a process (``allow_tf32``, ``fp32_precision``); PyTorch has a guard for one
    thread (``NoTF32Guard``), in C++ alone. A fit does not inherit the setting, so that it is the same in every program.
    Products that are exact already are left so; other products become exact in all threads while the body runs, which
    costs the other threads time and no accuracy. On other devices than CUDA nothing is changed.

    Examples
    --------
    >>> with exact_products("cpu"):
    ...     pass
    """
    with _exact_products if device.startswith("cuda") else nullcontext():
        yield


def may_have_accelerator() -> bool:
    """Return whether this machine may have an accelerator, without importing torch.

    On Linux, CUDA and ROCm need device files of the kernel's drivers; other systems give no such sign.
    """
    if sys.platform != "linux" or "torch" in sys.modules:
        return True
    return any(Path(path).exists() for path in _DEVICE_FILES)


# ---------------------------------------------------------------------------- precision


def choose_encoding_dtype(
    dtype: str, device: str, products: tuple[int, int] | None = None, *, preferred: str | None = None
) -> str:
    """Return the name of the dtype that an encoder's towers run in, for a requested dtype.

    Parameters
    ----------
    dtype : str
        ``"auto"`` is bfloat16 on CUDA; on a CPU, bfloat16 where products of the tower's shape are measured a third
        faster in it (:func:`measured_encoding_dtype`); float32 elsewhere. Otherwise one of ``ENCODING_DTYPES``.
    device : str
        As returned by :func:`choose_device`.
    products : (int, int), default=None
        Inputs and outputs of the layers that cost most; None are those of a ViT-B.
    preferred : str, default=None
        The dtype that ``"auto"`` means instead, such as that of features made before.

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
        if preferred in ENCODING_DTYPES:
            return preferred
        if device.startswith("cuda"):
            return "bfloat16"
        return measured_encoding_dtype(*(products or (768, 3072))) if device == "cpu" else "float32"
    if dtype not in ENCODING_DTYPES:
        raise unknown_name("dtype", dtype, ("auto", *ENCODING_DTYPES))
    return dtype


def measured_encoding_dtype(inputs: int, outputs: int) -> str:
    """Return bfloat16 where layers of these widths are a third faster in it on this processor, else float32.

    It is measured once for the widths, PyTorch's version and the number of threads (:mod:`cafe.measured`).

    Parameters
    ----------
    inputs, outputs : int
        Of a layer; timed is this layer and the one back, as in the two-layer networks that most of a tower is.
    """
    import torch

    # Widths of one class of shapes are timed at the same size, which a tenth of a second has room for.
    while inputs * outputs > _MEASURED_WEIGHTS:
        inputs, outputs = inputs // 2, outputs // 2

    def work(dtype: torch.dtype) -> Callable[[], object]:
        first, second = torch.ones(outputs, inputs, dtype=dtype), torch.ones(inputs, outputs, dtype=dtype)
        rows = torch.ones(_MEASURED_ROWS, inputs, dtype=dtype)

        def layers() -> object:
            with torch.inference_mode():
                return torch.nn.functional.linear(torch.nn.functional.linear(rows, first), second)

        return layers

    threads = torch.get_num_threads()
    with torch_threads(1):  # an extraction encodes batches side by side, each on one thread
        seconds = seconds_of(
            f"encoding, layers of {inputs} and {outputs}", ("float32", "bfloat16"),
            lambda: {name: work(getattr(torch, name)) for name in ("float32", "bfloat16")},
            library=f"torch {torch.__version__}", threads=threads, at_least=2,
        )  # fmt: skip
    return "bfloat16" if seconds["float32"] >= WORTH_BFLOAT16 * seconds["bfloat16"] else "float32"


def heaviest_products(shapes: Iterable[Sequence[int]]) -> tuple[int, int] | None:
    """Return (inputs, outputs) of the costliest layers from the shapes of a tower's weights; None without layers.

    Examples
    --------
    >>> heaviest_products([(64, 64), (64, 64), (256, 64), (256,), (64, 256)])
    (64, 256)
    """
    costs = Counter[tuple[int, int]]()
    for outputs, inputs in (shape for shape in map(tuple, shapes) if len(shape) == 2):
        costs[min(inputs, outputs), max(inputs, outputs)] += inputs * outputs
    return costs.most_common(1)[0][0] if costs else None


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


# ---------------------------------------------------------------------------- threads


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Run the body with so many threads of torch, and put their number back.

    Examples
    --------
    >>> with torch_threads(1):
    ...     pass
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    with torch_threads(1), _thread_pools(len(sys.modules)).limit(limits=1):
        yield


def threads_of_a_product() -> int:
    """Return how many threads a library other than torch may take for one product: as many as torch has now.

    Where torch is not imported, that is ``OMP_NUM_THREADS``, else the processors that this process may use.

    Examples
    --------
    >>> threads_of_a_product() >= 1
    True
    """
    if "torch" in sys.modules:
        import torch

        return torch.get_num_threads()
    stated = os.environ.get("OMP_NUM_THREADS", "")
    if stated.isdecimal() and int(stated):
        return int(stated)
    return processors()


def processors() -> int:
    """Return how many processors this process may use; a container may be given fewer than the machine has.

    Examples
    --------
    >>> processors() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _thread_pools(n_modules: int) -> Any:
    """Return a controller of the libraries' thread pools; ``n_modules`` makes a new one after imports (5 ms)."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class _GivenUp(BaseException):
    """Raised in a job of :func:`run_each` that is not wanted any more."""


# Of the job that a thread runs: ``given_up``, an Event.
_job = local()


def leave_if_given_up() -> None:
    """Leave the job of :func:`run_each` that this thread runs, where another has failed or Ctrl-C has come.

    Loops of fits call it once a step. Outside of such a job it does nothing.

    Examples
    --------
    >>> leave_if_given_up()
    """
    given_up = getattr(_job, "given_up", None)
    if given_up is not None and given_up.is_set():
        raise _GivenUp


def run_each(jobs: Sequence[Callable[[], None]]) -> None:
    """Run independent jobs, as many at once as PyTorch has threads, each on one thread.

    Fits that share nothing need no barrier between their steps, so two fits on two cores finish sooner than two
    fits one after the other on both. The jobs' operations on arrays and tensors release the interpreter's lock.

    Parameters
    ----------
    jobs : sequence of callables
        In any order of execution; the first exception is raised. After an exception, as after Ctrl-C, no job begins,
        and those that run are waited for until they end or come to :func:`leave_if_given_up`.

    Examples
    --------
    >>> done = []
    >>> run_each([lambda: done.append(1), lambda: done.append(2)])
    >>> sorted(done)
    [1, 2]
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch

    before, given_up = torch.get_num_threads(), Event()

    def alone(job: Callable[[], None]) -> None:
        torch.set_num_threads(1)  # of this worker; OpenMP keeps the number per thread
        _job.given_up = given_up
        try:
            leave_if_given_up()
            job()
        except _GivenUp:
            pass  # what it was given up for is raised to the caller
        except BaseException:
            given_up.set()
            raise

    try:
        with _thread_pools(len(sys.modules)).limit(limits=1, user_api="blas"), ThreadPoolExecutor(before) as pool:
            futures = [pool.submit(alone, job) for job in jobs]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                given_up.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(before)
