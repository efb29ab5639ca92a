"""What setup.cfg cannot say: the passes of a CPU's step are built from C where a compiler is at hand.

Without a compiler the installation goes on, and cafe runs by PyTorch's operations alone. The library holds no Python
and is loaded with ctypes, so that Python's headers are not needed.
"""

import sys
import zlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("cafe", "kernels", "compiled")
SOURCES = [FOLDER / "passes.c", FOLDER / "typed_passes.h"]
# Compiled with OpenMP, and not linked to one: PyTorch's is in the process already.
OPTIONS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-fopenmp"]


class BuildLibrary(build_ext):
    """Builds a library under its plain name."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the path without Python's version in it."""
        return str(Path(*fullname.split("."))) + ".so"


def compiled() -> list[Extension]:
    """Return the library on Linux; elsewhere it has never been built, and Apple's compiler has no OpenMP."""
    if sys.platform != "linux":
        return []
    check_sum = zlib.crc32(b"".join(path.read_bytes() for path in SOURCES))
    return [
        Extension(
            "cafe.kernels.compiled.passes",
            [str(SOURCES[0])],
            depends=[str(SOURCES[1])],
            define_macros=[("SOURCES", f"{check_sum}u")],
            extra_compile_args=OPTIONS,
            optional=True,
        )
    ]


setup(ext_modules=compiled(), cmdclass={"build_ext": BuildLibrary})
