"""The fonts that training may use, and the licence of each.

Only fonts inside declared packages are read, never fonts that a machine
happens to have, so that training sees the same glyphs everywhere.
"""

import csv
import dataclasses
import importlib.util
import pathlib

EXTRA = "cafe-clip[train]"


@dataclasses.dataclass(frozen=True)
class FontPackage:
    """A package with font files, their licence and which files to use."""

    requirement: str
    module: str
    folder: str
    pattern: str
    licence: str
    held_out: bool


def _packages() -> tuple[FontPackage, ...]:
    """Return the font packages that ``fonts.csv`` lists; those whose use is ``check`` are never trained on."""
    # The pattern for DejaVu leaves out its two Display faces, which lack the letters and digits that are drawn.
    with (pathlib.Path(__file__).parent / "fonts.csv").open(encoding="utf-8", newline="") as table:
        return tuple(FontPackage(held_out=row.pop("use") == "check", **row) for row in csv.DictReader(table))


PACKAGES = _packages()
#: Families that look written by hand count as handwriting in captions.
HANDWRITTEN_MODULES: frozenset[str] = frozenset({"font_amatic_sc", "font_intuitive"})
HERSHEY_MODULE = "HersheyFonts"
HERSHEY_LICENCE = (
    "package Hershey-Fonts: MIT; the Hershey glyphs (A. V. Hershey, U.S. "
    "National Bureau of Standards; format by J. Hurt, Cognition Inc.) are free "
    "to use with this acknowledgement"
)


class MissingTrainingPackageError(ImportError):
    """A package that training needs is not installed."""


def require(module: str, requirement: str) -> pathlib.Path:
    """Return the folder of an installed package.

    Parameters
    ----------
    module : str
        The module's import name.
    requirement : str
        What to install when the module is missing.

    Returns
    -------
    pathlib.Path
        The folder that holds the module.

    Raises
    ------
    MissingTrainingPackageError
        If the module is not installed; names the extra that brings it.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise MissingTrainingPackageError(
            f"training cafe:mini needs the package {requirement!r}; install the extra: pip install '{EXTRA}'"
        )
    return pathlib.Path(spec.origin).parent


def font_files(held_out: bool = False) -> list[tuple[pathlib.Path, bool]]:
    """List the font files to draw with.

    Parameters
    ----------
    held_out : bool
        Return the families kept for checks in place of those trained on.

    Returns
    -------
    list of (pathlib.Path, bool)
        Each file, and whether it looks handwritten, in a fixed order.
    """
    fonts: list[tuple[pathlib.Path, bool]] = []
    for package in PACKAGES:
        folder = require(package.module, package.requirement) / package.folder
        if package.held_out == held_out:
            handwritten = package.module in HANDWRITTEN_MODULES
            files = sorted(folder.glob(package.pattern))
            fonts.extend((file, handwritten) for file in files)
    return fonts
