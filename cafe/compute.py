"""Where things are computed: the device, and on how many threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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


# Small problems run on one thread. A step of a few-shot fit is a handful of small products. Two threads gain nothing
# on them, and on a machine that is busy elsewhere they cost much: each waits, spinning, for the other to be scheduled
# (a demo that took 30 s alone took 200 s beside another program).
# Multiply-adds below which a second thread costs more than it gains; about 2 ms on one core.
SMALL = 50_000_000


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
