"""scikit-learn imported without what it imports itself and cafe never uses: half a second of processor time.

``sklearn.utils.fixes`` imports scipy.stats for one function and pandas for another (scikit-learn 1.9); both are for
other estimators than those here. scipy's array API copies all names of NumPy (scipy 1.17), among them that of its
compiler of Fortran, numpy.f2py, which is imported for that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_UNUSED = "scipy.stats", "pandas", "numpy.f2py"


def import_scikit_learn() -> None:
    """Import scikit-learn's base classes for a process that is the command line's own.

    pandas stays unknown to scikit-learn's reader of ARFF files in this process; scipy and NumPy import scipy.stats and
    numpy.f2py by themselves when these are first used. Nothing is done where scikit-learn has been imported before.

    Examples
    --------
    >>> import_scikit_learn()
    """
    if "sklearn" in sys.modules:
        return
    try:
        with _left_out():
            import sklearn.base
    except ImportError:  # another version, which uses them as it is imported
        import sklearn.base  # noqa: F401


@contextmanager
def _left_out() -> Iterator[None]:
    """Let imports of what is unused find nothing, or an empty module where its package replaces it when it is used."""
    import numpy as np
    import scipy

    absent = [name for name in _UNUSED if name not in sys.modules]
    modules: dict[str, ModuleType | None] = {
        "scipy.stats": ModuleType("scipy.stats"),
        "pandas": None,
        "numpy.f2py": ModuleType("numpy.f2py"),
    }
    for package in (scipy, np):
        if not hasattr(package, "__getattr__"):  # before it imported its parts by itself
            absent = [name for name in absent if not name.startswith(f"{package.__name__}.")]
    for name in absent:
        sys.modules[name] = modules[name]  # type: ignore[assignment]  # None is how Python marks what is not there
    if "numpy.f2py" in absent:
        vars(np)["f2py"] = modules["numpy.f2py"]  # where NumPy looks once its name is asked for
    try:
        yield
    finally:
        for name in absent:
            if sys.modules.get(name) is modules[name]:
                del sys.modules[name]
        if vars(np).get("f2py") is modules["numpy.f2py"]:
            del vars(np)["f2py"]
