"""The passes that were built from C when cafe was installed: loaded once, or the reason why they cannot be.

The library is called through ctypes and has no Python in it. It is linked to no OpenMP of its own: the symbols that it
needs are those of PyTorch's, which is in the process already, so that one set of threads serves both.
"""

from __future__ import annotations

import ctypes
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "passes.so"
SOURCES = ("passes.c", "typed_passes.h")
# Types that the passes take, by their names in C.
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
# What a pass returns beside 0.
_FAULTS: dict[int, Callable[[], Exception]] = {
    1: lambda: MemoryError("no memory for a row of logits"),
    2: lambda: IndexError("a batch has a row or a label that does not exist"),
}


def check_sum(folder: Path = FOLDER) -> int | None:
    """Return the check sum of the sources in a folder; None where they are not there, as in a wheel.

    Examples
    --------
    >>> check_sum(Path("no such folder")) is None
    True
    """
    paths = [folder / name for name in SOURCES]
    if not all(path.is_file() for path in paths):
        return None
    return zlib.crc32(b"".join(path.read_bytes() for path in paths))


@cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    """Return the library and "", or None and why it cannot be used."""
    if sys.platform != "linux":
        return None, f"its passes are built on Linux alone, and this is {sys.platform}"
    again = "run `pip install -e .` again where a C compiler is at hand"
    if not LIBRARY.is_file():
        return None, f"this installation has no {LIBRARY.name}, which needs a C compiler to be built; {again}"
    try:
        library = ctypes.CDLL(str(LIBRARY))
        built_from = ctypes.c_uint32.in_dll(library, "passes_sources").value
    except (OSError, ValueError) as error:
        return None, f"{LIBRARY} cannot be loaded here ({error}); {again}"
    if check_sum() not in (None, built_from):
        return None, f"{LIBRARY} was built from other sources than {' and '.join(SOURCES)} beside it; {again}"
    return library, ""


def why_not_compiled() -> str:
    """Return why the compiled passes cannot run, as a part of a sentence; "" where they can."""
    return _loaded()[1]


def _raise_fault(status: int) -> None:
    """Raise what a pass reports."""
    if status:
        raise _FAULTS[status]()


def bound(name: str, arguments: ctypes.Structure) -> Callable[[], None]:
    """Return a function without arguments that runs the pass of that name with these arguments.

    Parameters
    ----------
    name : str
        Of a function in ``passes.c``.
    arguments : Structure
        Its only argument; may be changed between calls.
    """
    library, why = _loaded()
    if library is None:
        raise RuntimeError(why)
    function: Any = getattr(library, name)
    function.restype = _raise_fault
    address = ctypes.byref(arguments)

    def run() -> None:
        function(address)

    return run


class Arguments(ctypes.Structure):
    """Arguments of a pass; tensors stand for their memory, and are kept as long as the structure is."""

    def __init__(self, **values: Tensor | float | None) -> None:
        super().__init__()
        self.tensors: dict[str, Tensor] = {}
        for name, value in values.items():
            self.point(name, value)

    def point(self, name: str, value: Tensor | float | None) -> None:
        """Set a field to a number, or to the memory of a tensor."""
        if isinstance(value, Tensor):
            self.tensors[name] = value
            setattr(self, name, value.data_ptr())
        else:
            setattr(self, name, value)


def _fields(**types: str) -> list[tuple[str, Any]]:
    """Return a structure's fields from their names by type."""
    known = {"pointers": ctypes.c_void_p, "integers": ctypes.c_int64, "floats": ctypes.c_float}
    return [(name, known[kind]) for kind, names in types.items() for name in names.split()]


class Gather(Arguments):
    """``out[i] = rows[index[i]]``."""

    _fields_ = _fields(pointers="rows index out", integers="available n bytes")


class Activation(Arguments):
    """ReLU of k matrices, or its derivative; each row lies at a distance of its own."""

    _fields_ = _fields(
        pointers="in activation out",
        integers="matrices rows width in_matrix in_row activation_matrix activation_row out_matrix out_row",
    )


class Blend(Arguments):
    """``q = ratio A + (1 - ratio) x`` and ``r = 1 / |q|``."""

    _fields_ = _fields(
        pointers="x adapted q ratio r", integers="configurations rows width ratio_per_row x_shared released"
    )


class Errors(Arguments):
    """Cosines to weight G, u and losses."""

    _fields_ = _fields(
        pointers="cosines q u r scale weight labels index losses",
        integers="configurations rows classes width index_of_matrix",
    )


class Update(Arguments):
    """AdamW or SGD on numbers that lie in a row."""

    _fields_ = _fields(
        pointers="parameters first second gradients narrow",
        integers="n",
        floats="rate decay beta1 beta2 eps correction1 correction2",
    )
